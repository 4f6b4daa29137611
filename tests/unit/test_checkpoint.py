"""The manifest: read back as it was written, or refused in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoint import CHECKPOINT

from songstarter.checkpoint import Checkpoint, Melody, exact_division
from songstarter.errors import CheckpointError


@pytest.mark.parametrize("melody", [None, Melody(frames=235, samples=966_656, block_samples=131_072)])
def test_a_manifest_is_read_as_it_was_written(melody: Melody | None, tmp_path: Path) -> None:
    checkpoint = replace(CHECKPOINT, melody=melody, digests={"decoder/1/decoder.onnx": "0" * 64})
    checkpoint.write(tmp_path)
    assert Checkpoint.read(tmp_path) == checkpoint


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no manifest.json in .*: run `songstarter export CHECKPOINT --into"):
        Checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xb8\x00", "is not JSON"),
        (b"[]", "is not of format 2"),
        (b"{}", "is not of format 2"),
        (b'{"format": 1}', "is not of format 2"),
        (b'{"format": 2}', "is incomplete"),
        (b'{"format": 2, "melody": null, "text": {"end_token": 1}}', "is incomplete"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_to_export_again(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{reason}.*: export again"):
        Checkpoint.read(tmp_path)


def test_a_fact_too_many_is_refused(tmp_path: Path) -> None:
    path = CHECKPOINT.write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tempo": 140}))
    with pytest.raises(CheckpointError, match="tempo"):
        Checkpoint.read(tmp_path)


def test_units_that_do_not_divide_are_refused() -> None:
    assert exact_division(32_000, 640) == 50
    with pytest.raises(CheckpointError, match="32000 is not a whole multiple of 641"):
        exact_division(32_000, 641)


@pytest.mark.parametrize(("seconds", "frames"), [(0.5, 5), (0.5998, 5), (0.59999996, 6), (0.0, 0)])
def test_what_fp32_lost_of_a_duration_is_forgiven(seconds: float, frames: int) -> None:
    assert CHECKPOINT.frames_in(seconds) == frames
