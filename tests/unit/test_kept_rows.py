"""Which beginnings are copied, and which of them rows read in one place."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from songstarter.array import Array
from songstarter.stages.conditioning import PrependedPrefix
from songstarter.stages.kept_rows import KeptRows
from songstarter.stages.kv_memory import BlockMemory, HostMemory

SLOT_ROWS, KEPT, POSITIONS = 4, 2, 64
MELODY, OTHER_MELODY = np.random.default_rng(0).standard_normal((2, 20, 3), np.float32)


@pytest.fixture
def kept() -> KeptRows:
    memory = HostMemory(["key_0"], shape=(SLOT_ROWS + KEPT, 1, POSITIONS, 4), dtype=np.float32)
    return KeptRows(memory, first=SLOT_ROWS, count=KEPT)


def prefix(melody: Array, prompt: float) -> Array:
    return np.concatenate([melody, np.full((5, 3), prompt, np.float32)])


def test_what_comes_first_shares_with_nobody_until_it_is_kept(kept: KeptRows) -> None:
    assert kept.recall(prefix(MELODY, 1), 0) == 0
    assert kept.shared[0].tolist() == [0, 0]
    kept.keep(prefix(MELODY, 1), 0)
    assert kept.shared[0, 0] >= SLOT_ROWS
    assert kept.shared[0, 1] == 25


def test_what_only_looks_alike_is_not_shared(kept: KeptRows) -> None:
    """Two rows that were filled at the same time: on some devices their last bits may differ."""
    kept.recall(prefix(MELODY, 1), 0)
    kept.recall(prefix(MELODY, 1), 1)
    kept.keep(prefix(MELODY, 1), 0)
    kept.keep(prefix(MELODY, 1), 1)
    assert kept.shared[0, 1] == 25
    assert kept.shared[1].tolist() == [0, 0]


def test_other_prompts_and_none_share_the_melody_part_of_the_oldest(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 0)
    assert kept.recall(prefix(MELODY, 0), 1) == 20
    kept.keep(prefix(MELODY, 0), 1)
    assert kept.recall(prefix(MELODY, 0), 2) == 25  # of the younger, which is longer
    assert kept.shared[1].tolist() == kept.shared[2].tolist() == [kept.shared[0, 0], 20]


def test_no_more_is_shared_than_was_copied(kept: KeptRows) -> None:
    """Though the row it was copied from has more in common with the elder one."""
    kept.keep(prefix(OTHER_MELODY, 1), 3)  # so that the younger one, in its place, is the higher row of the two
    kept.keep(prefix(MELODY, 1), 0)
    kept.recall(prefix(MELODY, 2), 1)
    kept.keep(prefix(MELODY, 2), 1)
    shorter = np.concatenate([MELODY[:12], OTHER_MELODY[12:]])
    assert kept.recall(prefix(shorter, 2), 2) == 12
    assert kept.shared[2].tolist() == [kept.shared[0, 0], 12]


def test_another_melody_shares_with_its_own_only(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 0)
    assert kept.recall(prefix(OTHER_MELODY, 1), 1) == 0
    assert kept.shared[1].tolist() == [0, 0]
    kept.keep(prefix(OTHER_MELODY, 1), 1)
    assert kept.shared[1, 0] != kept.shared[0, 0]


def test_a_copy_shares_what_its_source_does(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 0)
    kept.share_alike(0, 3)
    assert kept.shared[3].tolist() == kept.shared[0].tolist()


def test_a_slot_that_becomes_a_copy_forgets_what_it_shared_before(kept: KeptRows) -> None:
    """Or it would read the beginning of whoever played there last."""
    kept.keep(prefix(MELODY, 1), 0)
    kept.keep(prefix(OTHER_MELODY, 1), 3)
    PrependedPrefix(kept).copy(0, 3)
    assert kept.shared[3].tolist() == kept.shared[0].tolist()


def test_what_rows_share_is_told_from_the_first_of_them_on(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 2)
    row, length = kept.shared[2].tolist()
    assert PrependedPrefix(kept).shared(2, 1).tolist() == [[row - 2, length]]
    assert PrependedPrefix(kept).shared(0, 4)[2].tolist() == [row, length]


def test_who_shared_a_row_that_makes_room_reads_its_own(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 0)
    kept.keep(prefix(OTHER_MELODY, 1), 1)
    kept.keep(prefix(OTHER_MELODY[::-1], 1), 2)  # in place of the first
    assert kept.shared[0].tolist() == [0, 0]
    assert kept.shared[2, 0] != kept.shared[1, 0]


def test_a_row_that_makes_room_takes_what_it_shared_along(kept: KeptRows) -> None:
    """What is kept there next has nothing in common with the elder of what was."""
    kept.keep(prefix(MELODY, 1), 0)
    kept.recall(prefix(MELODY, 2), 1)
    kept.keep(prefix(MELODY, 2), 1)
    kept.keep(prefix(OTHER_MELODY, 1), 2)  # in its place
    assert kept.recall(prefix(OTHER_MELODY, 1), 3) == 25
    assert kept.shared[3].tolist() == kept.shared[2].tolist()
    assert kept.shared[3].tolist() != [kept.shared[0, 0], 20]


def test_what_was_recalled_last_is_not_the_first_to_make_room(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 0)
    kept.keep(prefix(OTHER_MELODY, 1), 1)
    kept.recall(prefix(MELODY, 1), 2)
    kept.keep(prefix(MELODY[::-1], 1), 3)
    assert kept.recall(prefix(MELODY, 1), 0) == 25
    assert kept.recall(prefix(OTHER_MELODY, 1), 1) == 0


def test_what_is_shared_is_not_the_first_to_make_room(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 0)
    for row, prompt in ((1, 2), (2, 3)):  # both share the first; the second has no room beside it and the third
        kept.recall(prefix(MELODY, prompt), row)
        kept.keep(prefix(MELODY, prompt), row)
    assert kept.shared[0, 1] == 25
    assert kept.shared[1].tolist() == kept.shared[2].tolist() == [kept.shared[0, 0], 20]
    kept.keep(prefix(OTHER_MELODY, 1), 3)
    assert kept.shared[0, 1] == 25


def test_what_is_recalled_by_way_of_a_younger_row_keeps_the_elder_one(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 0)
    kept.recall(prefix(MELODY, 2), 1)
    kept.keep(prefix(MELODY, 2), 1)
    kept.recall(prefix(MELODY, 2), 2)
    kept.keep(prefix(OTHER_MELODY, 1), 3)
    assert kept.recall(prefix(MELODY, 2), 1) == 20
    assert kept.shared[0, 1] == 25


def test_what_is_kept_is_not_the_order_s_own_array(kept: KeptRows) -> None:
    """Which belongs to somebody else, and of which it may be a small part."""
    windows = np.stack([prefix(MELODY, 1), prefix(MELODY, 2)])
    kept.keep(windows[0], 0)
    windows[:] = 0
    assert kept.recall(prefix(MELODY, 1), 1) == 25


def test_a_kept_row_that_could_not_be_written_is_not_lost(kept: KeptRows, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(HostMemory, "copy", fail)
        for _ in range(KEPT + 1):
            with pytest.raises(RuntimeError):
                kept.keep(prefix(MELODY, 1), 0)
    kept.keep(prefix(MELODY, 1), 0)
    assert kept.recall(prefix(MELODY, 1), 1) == 25


@pytest.mark.parametrize("length", [1, 15, 16, 17, 64])
def test_memory_in_blocks_is_copied_in_whole_blocks(length: int) -> None:
    memory = BlockMemory(["key_0"], shape=(2, 3, POSITIONS, 4), dtype=np.int8)
    row_bytes = 3 * POSITIONS * 4
    numbers = np.random.default_rng(1).integers(-128, 128, row_bytes).astype(np.int8)
    address = memory.places(0, 1)["key_0"].address
    ctypes.memmove(address, numbers.ctypes.data, row_bytes)
    memory.copy(0, 1, length)
    copied = np.frombuffer(ctypes.string_at(address + row_bytes, row_bytes), np.int8)
    whole = -(-length // 16) * 16 * 3 * 4  # of all heads
    assert np.array_equal(copied[:whole], numbers[:whole])
    assert not copied[whole:].any()


def test_a_row_that_begins_otherwise_shares_no_more(kept: KeptRows) -> None:
    kept.keep(prefix(MELODY, 1), 0)
    kept.recall(prefix(OTHER_MELODY, 1), 0)
    assert kept.shared[0].tolist() == [0, 0]
