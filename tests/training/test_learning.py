"""A few steps of training at a tiny size, and the training's forward pass against the library's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.codec import CodecTraining, Crops, make_codec
from training.musicgen import CHROMA_FRAMES, CHROMA_PER_COLUMN, CLASSES, logits, make_musicgen, text_embeddings
from training.pieces import chroma_of, make_piece
from training.quantiser import ResidualQuantiser
from training.tokenizer import make_tokenizer
from training.windows import PATTERN, TURNS, UNPROMPTED, USUAL, Windows, corrupted

PROMPT = "synth, dark, hip hop, a minor, 140 bpm"


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return make_codec().eval()


@pytest.fixture(scope="module")
def musicgen(codec):
    torch.manual_seed(0)
    return make_musicgen(codec, len(make_tokenizer())).eval()


@pytest.fixture(scope="module")
def pieces(codec):
    return [make_piece(seed, codec, make_tokenizer()) for seed in range(3)]


def test_a_prompt_of_the_world_is_eight_tokens_however_it_is_spelled() -> None:
    tokenizer = make_tokenizer()
    assert len(tokenizer(PROMPT).input_ids) == 8
    for spelling in ("Synth dark hip-hop A minor 140 bpm", "SYNTH,dark,  hiphop, a minor,140 BPM"):
        assert tokenizer(spelling).input_ids == tokenizer(PROMPT).input_ids
    assert tokenizer("Bb major").input_ids == tokenizer("a# major").input_ids
    assert tokenizer("banjo").input_ids == [tokenizer.unk_token_id, tokenizer.eos_token_id]


@torch.no_grad()
def test_the_forward_pass_for_learning_is_the_library_s(musicgen) -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 100, (2, 8), generator=generator)
    columns = torch.randint(0, 513, (2, 8, 20), generator=generator)
    chroma = torch.randint(0, CLASSES, (2, CHROMA_FRAMES), generator=generator)
    text = text_embeddings(musicgen, tokens, torch.ones(2))
    ours = logits(musicgen, chroma, text, columns, torch.zeros(2, dtype=torch.long))
    prefix = torch.cat([musicgen.audio_enc_to_dec_proj(F.one_hot(chroma, CLASSES).float()), text], dim=1)
    theirs = musicgen.decoder(input_ids=columns.reshape(16, 20), encoder_hidden_states=prefix).logits
    torch.testing.assert_close(ours, theirs.view(2, 8, -1, 512)[:, :, -20:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_first_head_begins_by_following_the_melody_s_clock(musicgen) -> None:
    decoder = musicgen.decoder.model.decoder
    attention = decoder.layers[0].self_attn
    seen = F.layer_norm(decoder.embed_positions.weights, (256,))
    columns = torch.arange(0, 600, 50)
    queries, keys = attention.q_proj(seen[columns + CHROMA_FRAMES + 9]), attention.k_proj(seen[:CHROMA_FRAMES])
    looked_at = (queries[:, :64] @ keys[:, :64].T).argmax(1)
    assert (looked_at - columns * CHROMA_PER_COLUMN).abs().max() <= 3


@torch.no_grad()
def test_the_third_head_begins_by_looking_one_column_back(musicgen) -> None:
    decoder = musicgen.decoder.model.decoder
    attention = decoder.layers[0].self_attn
    seen = F.layer_norm(decoder.embed_positions.weights, (256,))
    places, head = torch.arange(250, 900, 50), slice(128, 192)
    queries, keys = attention.q_proj(seen[places]), attention.k_proj(seen[:900])
    looked_at = (queries[:, head] @ keys[:, head].T).argmax(1)
    assert ((places - looked_at) == 1).float().mean() > 0.9


def test_the_melody_of_a_sine_is_its_pitch_class() -> None:
    time = np.arange(64_000) / 32_000
    assert set(chroma_of(np.sin(2 * np.pi * 440 * time).astype(np.float32)).tolist()) == {9}


def test_windows_keep_their_place_in_the_song(pieces) -> None:
    windows = Windows(pieces)
    for step, kind in enumerate(TURNS):
        batch = windows.batch(step)
        assert batch.columns.shape == batch.wanted.shape == (kind.rows, 8, kind.columns)
        assert len(batch.chroma) == (kind.rows if kind.melody else 1)
        starts = batch.columns[batch.places == 0]
        assert (starts[:, :, 0] == PATTERN.special).all()
        assert (starts[:, :2, 1] != PATTERN.special).all()
        torch.testing.assert_close(batch.columns, windows.batch(step).columns)
        untouched = windows.batch(step, corrupt=False)
        torch.testing.assert_close(untouched.columns[..., 1:], untouched.wanted[..., :-1])
        if kind is UNPROMPTED:
            assert batch.tokens.shape[1] == 1
            assert not batch.kept.any()
    assert USUAL in TURNS


def test_a_part_of_what_the_decoder_reads_is_replaced() -> None:
    columns = torch.randint(512, (64, 8, 100), generator=torch.Generator().manual_seed(0))
    replaced = (corrupted(columns, np.random.default_rng(0)) != columns).float().mean(dim=(1, 2))
    assert 0.05 < replaced.mean() < 0.25
    assert (replaced == 0).any()  # some rows are whole


def test_a_codebook_learns_what_it_quantises() -> None:
    torch.manual_seed(0)
    quantiser = ResidualQuantiser(2, 16, 4)
    latents = torch.randn(8, 4, 100)
    quantiser.spread(latents.transpose(1, 2).reshape(-1, 4))
    before = quantiser.eval()(latents)[1]
    for _ in range(20):
        quantiser.train()(latents)
    assert quantiser.eval()(latents)[1] < before
    quantised, _ = quantiser(latents)
    assert (quantised - latents).pow(2).mean() < 0.4 * latents.pow(2).mean()


@pytest.mark.slow
def test_the_codec_learns_in_a_few_steps() -> None:
    training, crops = CodecTraining(), Crops(range(2))
    losses = [training.learn(crops)["spectral"] for _ in range(12)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
