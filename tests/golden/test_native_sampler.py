"""The sampler in C beside its plain twins."""

from __future__ import annotations

import numpy as np
import pytest

from songstarter.array import Array
from songstarter.request import Sampling
from songstarter.sampling import keep, softmax
from songstarter.stages.native.compile import SAMPLER, InstructionSet
from songstarter.stages.native.processor import instruction_set, usable_instruction_sets
from songstarter.stages.native_sampler import NativeSampler, open_sampler
from songstarter.stages.sampler import Columns, Draw, sample_slots

pytestmark = pytest.mark.skipif(instruction_set(SAMPLER) is None, reason="not compiled, or made for other processors")

EVERY_SET = pytest.mark.parametrize("instructions", usable_instruction_sets(SAMPLER), ids=lambda one: one.name)
SETTINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(top_p=0.8),
    Sampling(top_p=1.0),
    Sampling(top_p=1e-6),
    Sampling(top_k=1),
    Sampling(top_k=3, temperature=0.7),
    Sampling(top_k=0, guidance=0),
    Sampling(top_k=2048, temperature=3, guidance=1),
    Sampling(top_p=0.3, top_k=5, guidance=1),
    Sampling(temperature=1e-40),
]


def logits_of(rows: int, vocabulary: int, spread: float = 4) -> Array:
    random = np.random.default_rng(rows)
    return random.standard_normal((rows, 2, 8, vocabulary)).astype(np.float32) * spread


def draws_of(steps: int) -> list[dict[int, Draw]]:
    """Every setting in a slot of its own, some slots idle, for so many steps; addresses from end to end."""
    slots = range(0, 2 * len(SETTINGS), 2)
    return [
        {
            slot: Draw(sampling, seed=2**32 - 1 - 7 * slot, variation=slot % 3, step=step * 977)
            for slot, sampling in zip(slots, SETTINGS, strict=True)
        }
        for step in range(steps)
    ]


def tokens_of(columns: Columns) -> dict[int, list[int]]:
    """Of every slot; none is left without a column."""
    assert all(column is not None for column in columns.values())
    return {slot: column.tolist() for slot, column in columns.items() if column is not None}


@EVERY_SET
@pytest.mark.parametrize(("vocabulary", "spread"), [(16, 1), (64, 4), (512, 0.5), (2048, 4), (2048, 0.01)])
def test_it_draws_what_its_twin_draws(instructions: InstructionSet, vocabulary: int, spread: float) -> None:
    native = NativeSampler(instructions)
    logits = logits_of(2 * len(SETTINGS), vocabulary, spread)
    for draws in draws_of(30):
        assert tokens_of(native(logits, draws)) == tokens_of(sample_slots(logits, draws))


@EVERY_SET
def test_equals_are_kept_as_the_twin_keeps_them(instructions: InstructionSet) -> None:
    native = NativeSampler(instructions)
    logits = np.round(logits_of(2 * len(SETTINGS), 64, 1))  # few different numbers
    for draws in draws_of(40):
        assert tokens_of(native(logits, draws)) == tokens_of(sample_slots(logits, draws))


@EVERY_SET
def test_a_token_stays_where_the_likelier_ones_weigh_exactly_the_mass(instructions: InstructionSet) -> None:
    """Where the first number falls on it, and where the second one draws."""
    native, steps = NativeSampler(instructions), 500
    logits = np.zeros((1, 2, 8, 16), np.float32)  # sixteen equals, each of exactly a sixteenth: five are kept
    draws = ({0: Draw(Sampling(top_p=0.25), 1, 0, step)} for step in range(steps))
    tokens = np.concatenate([tokens_of(native(logits, one))[0] for one in draws])
    assert np.bincount(tokens, minlength=16) / (8 * steps) == pytest.approx([0.2] * 5 + [0] * 11, abs=0.03)


@EVERY_SET
@pytest.mark.parametrize("sampling", [Sampling(top_k=5), Sampling(top_p=0.6), Sampling(top_k=0)])
def test_draws_follow_the_kept_distribution(instructions: InstructionSet, sampling: Sampling) -> None:
    native, count = NativeSampler(instructions), 20_000
    logits = np.repeat(logits_of(1, 16, 1)[:, :1], 2, axis=1)
    draws = ({0: Draw(sampling, seed=3, variation=0, step=step)} for step in range(count))
    tokens = [tokens_of(native(logits, one))[0][0] for one in draws]
    kept = keep(softmax(logits[0, 0, :1], np.float32(1)), sampling)[0]
    assert np.bincount(tokens, minlength=16) / count == pytest.approx(kept / kept.sum(), abs=0.012)


@EVERY_SET
@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("token", [0, 17, 63])
def test_logits_that_are_no_numbers_are_their_takes_alone(
    instructions: InstructionSet, what: float, row: int, guidance: float, token: int
) -> None:
    native = NativeSampler(instructions)
    logits = logits_of(3, 64)
    draws = {slot: Draw(Sampling(guidance=guidance), 1, 0, slot) for slot in range(3)}
    sound = native(logits, draws)
    logits[1, row, 7, token] = what
    found = native(logits, draws)
    assert (found[1] is None) == (row == 0 or guidance != 1)  # where nothing is guided, the null row does not count
    assert tokens_of({slot: found[slot] for slot in (0, 2)}) == tokens_of({slot: sound[slot] for slot in (0, 2)})


def test_every_instruction_set_draws_the_same() -> None:
    logits = logits_of(2 * len(SETTINGS), 512)
    for draws in draws_of(5):
        first, *others = [tokens_of(NativeSampler(one)(logits, draws)) for one in usable_instruction_sets(SAMPLER)]
        assert all(other == first for other in others)


def test_odd_vocabularies_are_left_to_the_twin() -> None:
    assert isinstance(open_sampler(2048), NativeSampler)
    assert open_sampler(2049) is sample_slots
