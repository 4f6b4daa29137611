"""Guidance and the filters, by hand; then the bulk sampler against its plain twin."""

import numpy as np
import pytest

from songstarter.randomness import philox, uniforms
from songstarter.request import Sampling
from songstarter.sampling import choose, draw, guide, keep, softmax
from songstarter.stages.sampler import Draw, sample, sample_slots

ROW = np.array([[0.4, 0.1, 0.3, 0.1, 0.1]], np.float32)
QUARTERS = np.array([[0.0, 0.25, 0.25, 0.25, 0.25]], np.float32)  # sums of these are exact
NEARLY_ONE = np.nextafter(1.0, 0.0)


def test_guidance_moves_logits_past_the_guided_ones() -> None:
    guided, null = np.array([[2.0, 0.0]], np.float32), np.array([[1.0, 1.0]], np.float32)
    assert guide(guided, null, 0).tolist() == [[1, 1]]
    assert guide(guided, null, 1).tolist() == [[2, 0]]
    assert guide(guided, null, 3).tolist() == [[4, -2]]


def test_top_k_keeps_ties_of_the_last_place() -> None:
    assert keep(ROW, Sampling(top_k=2))[0].nonzero()[0].tolist() == [0, 2]
    assert keep(ROW, Sampling(top_k=3))[0].nonzero()[0].tolist() == [0, 1, 2, 3, 4]


def test_more_may_be_kept_than_there_are() -> None:
    assert (keep(ROW, Sampling(top_k=250)) == ROW).all()


def test_top_k_of_zero_keeps_all() -> None:
    assert (keep(ROW, Sampling(top_k=0)) == ROW).all()


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.39, [0]), (0.5, [0, 2]), (0.69, [0, 2]), (0.75, [0, 1, 2]), (1.0, [0, 1, 2, 3, 4])]
)
def test_top_p_keeps_the_token_that_crosses_the_mass(mass: float, kept: list[int]) -> None:
    assert keep(ROW, Sampling(top_p=mass))[0].nonzero()[0].tolist() == kept


def test_a_token_stays_where_the_likelier_ones_weigh_exactly_the_mass() -> None:
    halves = np.array([[0.5, 0.25, 0.25]], np.float32)
    assert keep(halves, Sampling(top_p=0.5))[0].nonzero()[0].tolist() == [0, 1]
    logits = np.zeros((1, 2, 1, 16), np.float32)  # sixteen equals: each weighs exactly a sixteenth
    drawn = {int(sample(logits, [Draw(Sampling(top_p=0.25), 1, 0, step)])[0, 0]) for step in range(400)}
    assert drawn == {0, 1, 2, 3, 4}


def test_top_p_replaces_top_k() -> None:
    assert keep(ROW, Sampling(top_p=0.75, top_k=1))[0].nonzero()[0].tolist() == [0, 1, 2]


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = np.log(ROW)
    assert choose(logits, Sampling(temperature=0), np.array([[0.99, 0.99]])).tolist() == [0]


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.39, 0), (0.41, 1), (0.79, 2), (0.999999, 4)])
def test_a_uniform_falls_on_the_token_that_covers_it(uniform: float, token: int) -> None:
    assert draw(ROW, np.array([uniform])).tolist() == [token]


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.25, 2), (0.5, 3), (0.75, 4), (NEARLY_ONE, 4)])
def test_a_uniform_on_the_border_of_two_tokens_falls_on_the_later_one(uniform: float, token: int) -> None:
    assert draw(QUARTERS, np.array([uniform])).tolist() == [token]


def test_a_draw_never_takes_what_was_dropped() -> None:
    kept = keep(ROW, Sampling(top_k=2))
    tokens = {int(draw(kept, np.array([u]))[0]) for u in np.linspace(0, 1, 1000, endpoint=False)}
    assert tokens == {0, 2}


def test_what_was_dropped_is_not_drawn_at_either_end() -> None:
    """Neither of the numbers' own ends, nor where sums that were rounded otherwise reach beyond the last token."""
    random = np.random.default_rng(0)
    for _ in range(300):
        row = np.zeros((1, 192), np.float32)
        first, last = 64 + random.integers(0, 20), 64 + random.integers(30, 64)
        row[0, first:last] = np.exp(random.standard_normal(last - first) * 6)
        for uniform in (0.0, NEARLY_ONE):
            assert row[0, draw(row, np.array([uniform]))[0]] > 0


def test_the_second_number_draws_from_what_the_filter_keeps() -> None:
    # 0.45 falls on token 1, which top-k drops; of tokens 0 and 2, 0.45 falls on token 0, of all on token 1.
    assert choose(np.log(ROW), Sampling(top_k=2), np.array([[0.45, 0.45]])).tolist() == [0]
    assert choose(np.log(ROW), Sampling(top_k=2), np.array([[0.45, 0.75]])).tolist() == [2]
    assert choose(np.log(ROW), Sampling(top_k=2), np.array([[0.79, 0.0]])).tolist() == [2]  # kept: no second draw


def test_draws_follow_the_distribution() -> None:
    numbers = uniforms(np.full(20_000, 7), np.zeros(20_000), np.arange(20_000), 1)
    tokens = draw(np.repeat(ROW, 20_000, axis=0), numbers[:, 0, 0])
    assert np.bincount(tokens, minlength=5) / 20_000 == pytest.approx(ROW[0], abs=0.012)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # The known answers that Random123 publishes for philox4x32-10.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_published_answers(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    words = philox(
        tuple(np.array([word], np.uint64) for word in counter), tuple(np.array([word], np.uint64) for word in key)
    )
    assert tuple(int(word[0]) for word in words) == expected


def test_a_number_depends_on_its_address_alone() -> None:
    together = uniforms(np.array([1, 2, 3]), np.array([0, 1, 0]), np.array([5, 6, 7]), 8)
    alone = uniforms(np.array([2]), np.array([1]), np.array([6]), 8)
    assert (together[1] == alone[0]).all()
    assert len(np.unique(together)) == together.size


SETTINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(top_p=0.8),
    Sampling(top_k=3, temperature=0.7),
    Sampling(top_k=0, guidance=0),
    Sampling(top_k=2048, temperature=3, guidance=1),
    Sampling(top_p=0.3, top_k=5),
]


def test_the_bulk_sampler_equals_its_plain_twin_in_any_company() -> None:
    random = np.random.default_rng(3)
    logits = random.standard_normal((len(SETTINGS), 2, 8, 2048)).astype(np.float32) * 4
    draws = [
        Draw(sampling, seed=index, variation=index % 3, step=index * 41) for index, sampling in enumerate(SETTINGS)
    ]
    together = sample(logits, draws)
    for index, place in enumerate(draws):
        alone = sample(logits[index : index + 1], [place])[0]
        address = np.array([place.seed]), np.array([place.variation]), np.array([place.step])
        mixed = guide(logits[index, 0], logits[index, 1], place.sampling.guidance)
        plain = choose(mixed, place.sampling, uniforms(*address, 8)[0])
        assert together[index].tolist() == alone.tolist() == plain.tolist()


@pytest.mark.parametrize("sampling", [Sampling(top_k=2), Sampling(top_p=0.75), Sampling(top_k=0)])
def test_two_draws_follow_the_kept_distribution(sampling: Sampling) -> None:
    count = 20_000
    logits = np.log(np.repeat(ROW, count, axis=0)[:, None])
    both = np.stack([logits, logits], axis=1)
    tokens = sample(both, [Draw(sampling, seed=3, variation=0, step=step) for step in range(count)])
    kept = keep(ROW, sampling)[0]
    assert np.bincount(tokens[:, 0], minlength=5) / count == pytest.approx(kept / kept.sum(), abs=0.012)


def test_softmax_adds_up_to_one_however_large_the_logits() -> None:
    assert softmax(np.array([[1000.0, 1000.0]], np.float32), np.float32(1)).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-40])
def test_a_tiny_temperature_is_as_good_as_greedy(temperature: float) -> None:
    logits = np.random.default_rng(1).standard_normal((1, 2, 8, 64)).astype(np.float32)
    tiny = sample(logits, [Draw(Sampling(temperature=temperature), 1, 0, 0)])
    assert tiny.tolist() == sample(logits, [Draw(Sampling(temperature=0), 1, 0, 0)]).tolist()


def test_without_guidance_the_idle_row_does_not_count() -> None:
    """It holds whatever stood there before."""
    sound = np.random.default_rng(2).standard_normal((1, 2, 4, 64)).astype(np.float32)
    idle = sound.copy()
    idle[0, 1] = np.nan
    draws = {0: Draw(Sampling(guidance=1), 1, 0, 7)}
    expected, found = sample_slots(sound, draws)[0], sample_slots(idle, draws)[0]
    assert expected is not None
    assert found is not None
    assert found.tolist() == expected.tolist()
    assert np.isfinite(guide(idle[0, 0], idle[0, 1], 1)).all()


@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_logits_that_are_no_numbers_are_their_takes_alone(row: int, what: float) -> None:
    logits = np.random.default_rng(3).standard_normal((2, 2, 4, 64)).astype(np.float32)
    draws = {slot: Draw(Sampling(), 1, 0, slot) for slot in range(2)}
    sound = sample_slots(logits, draws)[0]
    logits[1, row, 3, 63] = what
    found = sample_slots(logits, draws)
    assert found[1] is None
    assert found[0] is not None
    assert sound is not None
    assert found[0].tolist() == sound.tolist()
