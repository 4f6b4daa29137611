"""The decoder model's border: what it refuses, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from songstarter.contract import DECODER_INPUTS
from songstarter.engine.order import OrderDesk
from songstarter.errors import InvalidRequest

HIDDEN = 256


@pytest.fixture(scope="module")
def desk(embedded_repository: Path) -> Iterator[OrderDesk]:
    desk = OrderDesk(embedded_repository, slots=1, max_waiting=8)
    yield desk
    desk.close()


def order(**changes: Any) -> dict[str, Any]:
    inputs = {
        "prefix": np.zeros((5, HIDDEN), np.float32),
        "null_prefix": np.zeros((5, HIDDEN), np.float32),
        "frames": np.array([10], np.int32),
        "variations": np.array([1], np.int32),
        "seed": np.array([1], np.int64),
        "temperature": np.array([1], np.float32),
        "top_k": np.array([250], np.int32),
        "top_p": np.array([0], np.float32),
        "guidance": np.array([3], np.float32),
        "priority": np.array([3], np.int32),
    }
    return {name: value for name, value in (inputs | changes).items() if value is not None}


@pytest.mark.parametrize("name", [tensor.name for tensor in DECODER_INPUTS if not tensor.optional])
def test_a_missing_tensor_is_refused_by_name(desk: OrderDesk, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: found nothing"):
        desk.accept(order(**{name: None}), print)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prefix": np.full((5, HIDDEN), np.nan, np.float32)}, "prefix"),
        ({"null_prefix": np.full((5, HIDDEN), np.inf, np.float32)}, "prefix"),
        ({"prefix": np.zeros((4, HIDDEN), np.float32)}, "prefix"),
        ({"prefix": np.zeros((5, 7), np.float32), "null_prefix": np.zeros((5, 7), np.float32)}, "prefix"),
        ({"prefix": np.zeros((900, HIDDEN), np.float32), "null_prefix": np.zeros((900, HIDDEN), np.float32)}, "prefix"),
        ({"frames": np.array([0], np.int32)}, "frames"),
        ({"frames": np.array([1501], np.int32)}, "frames"),
        ({"variations": np.array([9], np.int32)}, "variations"),
        ({"seed": np.array([-1], np.int64)}, "seed"),
        ({"priority": np.array([0], np.int32)}, "priority"),
        ({"temperature": np.array([np.nan], np.float32)}, "temperature"),
        ({"opening": np.zeros((8, 10), np.int32)}, "opening"),
        ({"opening": np.zeros((7, 3), np.int32)}, "opening"),
        ({"opening": np.full((8, 3), 512, np.int32)}, "opening"),
        ({"opening": np.full((8, 3), -1, np.int32)}, "opening"),
        ({"opening": np.zeros((8, 0), np.int32)}, "opening"),
    ],
)
def test_an_order_that_cannot_be_is_refused(desk: OrderDesk, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        desk.accept(order(**changes), print)
    assert caught.value.field == field
