"""The decoder graph and the engine against transformers: logits over a run, greedy songs token for token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoints import Loaded
from export.decoder import form_of, shape_of, write_decoder
from songstarter.array import Array
from songstarter.checkpoint import Checkpoint, Codec, Decoder, Text
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.filling import Prefix

POSITIONS = 1024
CHECKPOINTS = ["melody_checkpoint", "melody_mono_checkpoint", "text_checkpoint", "text_stereo_checkpoint"]


@pytest.fixture(params=CHECKPOINTS)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    checkpoint: Loaded = request.getfixturevalue(request.param)
    return checkpoint


def facts(loaded: Loaded, precision: str = "fp32") -> Checkpoint:
    config = loaded.model.decoder.config
    return Checkpoint(
        name="golden",
        family=loaded.family,
        sample_rate=32_000,
        samples_per_frame=640,
        channels=loaded.channels,
        delays=loaded.delays,
        special_token=config.pad_token_id,
        window_seconds=30,
        text=Text(end_token=1, pad_token=0, max_tokens=64, pad_to=16),
        melody=None,
        codec=Codec(codebooks=4, codebook_size=config.vocab_size, block_frames=250, memory=(6, 8)),
        decoder=Decoder(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads, 64, POSITIONS, precision, "cpu"
        ),
        models=(),
        digests={},
    )


@pytest.fixture
def stage(loaded: Loaded, tmp_path: Path) -> Callable[[str], DecoderStage]:
    def open_stage(precision: str) -> DecoderStage:
        folder = tmp_path / "decoder" / "1"
        folder.mkdir(parents=True, exist_ok=True)
        decoder = loaded.model.decoder
        write_decoder(decoder, shape_of(decoder, POSITIONS), form_of(precision, "cpu"), folder)
        return DecoderStage(tmp_path, facts(loaded, precision), slots=3)

    return open_stage


def random_prefix(loaded: Loaded) -> Prefix:
    random = np.random.default_rng(1)
    shape = (20, loaded.model.decoder.config.hidden_size)
    return Prefix(random.standard_normal(shape, np.float32), random.standard_normal(shape, np.float32) / 2)


def reference_logits(loaded: Loaded, prefix: Prefix, columns: Array) -> Array:
    """Logits [2, codebook, column, token] of transformers over all columns at once."""
    ids = torch.from_numpy(columns).expand(2, -1, -1).reshape(-1, columns.shape[1])
    conditions = torch.from_numpy(np.stack(prefix.rows))
    with torch.no_grad():
        logits = loaded.model.decoder(input_ids=ids, encoder_hidden_states=conditions).logits
    return logits.reshape(2, len(columns), -1, logits.shape[-1])[:, :, -columns.shape[1] :].numpy()


def fill(stage: DecoderStage, slot: int, prefix: Prefix, columns: Array, *, most: int = 10**6) -> Array:
    """Fill a slot in pieces of at most ``most`` positions; what it holds then."""
    filling = stage.begin(slot, prefix, columns)
    while not filling.done:
        stage.fill(filling, most)
    return filling.lengths.copy()


def play(stage: DecoderStage, prefix: Prefix, columns: Array, *, slot: int, known: int, most: int = 10**6) -> Array:
    """Logits [2, codebook, column - known, token] of the stage for the columns after the known ones."""
    length = fill(stage, slot, prefix, columns[:, :known], most=most)
    fed, lengths = np.full((slot + 1, len(columns)), 2048), np.zeros((slot + 1, 2), np.int64)
    logits = []
    for place in range(known, columns.shape[1]):
        fed[slot], lengths[slot] = columns[:, place], length
        logits.append(stage.step(fed, lengths)[slot])
        length += 1
    return np.stack(logits, axis=2)


def test_fp32_logits_equal_transformers_over_a_whole_run(loaded: Loaded, stage: Callable[[str], DecoderStage]) -> None:
    prefix = random_prefix(loaded)
    columns = np.random.default_rng(2).integers(0, 2049, (loaded.codebooks, 404))
    ours = play(stage("fp32"), prefix, columns, slot=1, known=5)
    theirs = reference_logits(loaded, prefix, columns)[:, :, 5:]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.98), ("int8", 0.75), ("int8_kv8", 0.7)])
def test_reduced_precisions_mostly_agree_on_the_likeliest_token(
    loaded: Loaded, stage: Callable[[str], DecoderStage], precision: str, share: float
) -> None:
    prefix = random_prefix(loaded)
    columns = np.random.default_rng(2).integers(0, 2049, (loaded.codebooks, 60))
    ours = play(stage(precision), prefix, columns, slot=0, known=5)
    theirs = reference_logits(loaded, prefix, columns)[:, :, 5:]
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() > share


def test_rows_do_not_depend_on_their_neighbours(loaded: Loaded, stage: Callable[[str], DecoderStage]) -> None:
    stage_fp32 = stage("fp32")
    prefix = random_prefix(loaded)
    columns = np.random.default_rng(4).integers(0, 2048, (3, loaded.codebooks))
    filled = [fill(stage_fp32, slot, prefix, columns[:1].T.repeat(slot + 3, axis=1)) for slot in range(3)]
    lengths = np.stack(filled)
    crowd = stage_fp32.step(columns, lengths)
    alone = stage_fp32.step(columns[:1], lengths[:1])
    assert (alone[0] == crowd[0]).all()
    pair = stage_fp32.step(columns[:2], lengths[:2])
    assert (pair == crowd[:2]).all()


def test_a_copied_slot_goes_on_like_its_source(loaded: Loaded, stage: Callable[[str], DecoderStage]) -> None:
    stage_fp32 = stage("fp32")
    column = np.random.default_rng(5).integers(0, 2048, (1, loaded.codebooks))
    lengths = fill(stage_fp32, 0, random_prefix(loaded), column.T)
    stage_fp32.copy(0, 2, lengths)
    logits = stage_fp32.step(column.repeat(3, axis=0), np.stack([lengths, lengths * 0, lengths]))
    assert (logits[0] == logits[2]).all()
    assert not (logits[0] == logits[1]).all()


@pytest.mark.parametrize("most", [2, 7, 16, 21])
def test_a_song_does_not_depend_on_the_pieces_its_slot_was_filled_in(
    loaded: Loaded, stage: Callable[[str], DecoderStage], most: int
) -> None:
    stage_fp32 = stage("fp32")
    prefix = random_prefix(loaded)
    columns = np.random.default_rng(6).integers(0, 2048, (loaded.codebooks, 9))
    whole = play(stage_fp32, prefix, columns, slot=0, known=6)
    pieces = play(stage("fp32"), prefix, columns, slot=1, known=6, most=most)
    assert (whole == pieces).all()


def test_a_song_does_not_depend_on_what_was_kept(loaded: Loaded, stage: Callable[[str], DecoderStage]) -> None:
    stage_fp32 = stage("fp32")
    prefix, other = random_prefix(loaded), random_prefix(loaded)
    other.guided[11:] += 1
    columns = np.random.default_rng(6).integers(0, 2048, (loaded.codebooks, 9))
    first = play(stage_fp32, prefix, columns, slot=0, known=2)
    play(stage_fp32, other, columns, slot=1, known=2)
    # Now the whole guided row is kept, the whole null row, and a row that shares eleven positions.
    again = play(stage_fp32, prefix, columns, slot=2, known=2)
    assert (first == again).all()
    filling = stage_fp32.begin(0, prefix, columns[:, :2])
    left = {row.left for row in filling.rows}
    assert left == {2}


def test_a_slot_forgets_the_longer_prefix_that_it_held(loaded: Loaded, stage: Callable[[str], DecoderStage]) -> None:
    stage_fp32 = stage("fp32")
    long = random_prefix(loaded)
    short = Prefix(long.guided[:7] + 1, long.null[:7] + 1)
    columns = np.random.default_rng(6).integers(0, 2048, (loaded.codebooks, 6))
    fresh = play(stage_fp32, short, columns, slot=1, known=2)
    play(stage_fp32, long, columns, slot=0, known=2)
    assert (play(stage_fp32, short, columns, slot=0, known=2) == fresh).all()


def test_an_evicted_beginning_is_computed_again(loaded: Loaded, stage: Callable[[str], DecoderStage]) -> None:
    stage_fp32 = stage("fp32")
    prefix = random_prefix(loaded)
    columns = np.random.default_rng(6).integers(0, 2048, (loaded.codebooks, 9))
    first = play(stage_fp32, prefix, columns, slot=0, known=2)
    for shift in range(1, 10):
        fill(stage_fp32, 1, Prefix(prefix.guided + shift, prefix.null - shift), columns[:, :2])
    assert {row.left for row in stage_fp32.begin(0, prefix, columns[:, :2]).rows} <= {len(prefix.guided) + 2, 2}
    assert (play(stage_fp32, prefix, columns, slot=2, known=2) == first).all()


def test_a_take_without_guidance_fills_one_row_and_its_logits_are_the_guided_ones(
    loaded: Loaded, stage: Callable[[str], DecoderStage]
) -> None:
    stage_fp32 = stage("fp32")
    prefix = random_prefix(loaded)
    column = np.random.default_rng(5).integers(0, 2048, (1, loaded.codebooks))
    both = fill(stage_fp32, 0, prefix, column.T)
    single = stage_fp32.begin(1, Prefix(prefix.guided + 0, None), np.repeat(column.T, 2, axis=1)[:, :1])
    assert len(single.rows) == 1
    while not single.done:
        stage_fp32.fill(single, 10**6)
    lengths = np.stack([both, single.lengths])
    logits = stage_fp32.step(column.repeat(2, axis=0), lengths)
    assert (logits[0, 0] == logits[1, 0]).all()
