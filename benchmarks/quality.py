"""What a precision costs: how far its next-token distributions are from fp32's.

Both see the same columns, whatever they would have chosen themselves (teacher forcing), along a take of 8 s.
Weights are random, so there are none of the outlying activations of trained models: take the figures for a
comparison of precisions, not for a promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.shapes import PREFIX, columns_of
from export.checkpoints import Loaded
from songstarter.array import Array
from songstarter.checkpoint import Checkpoint
from songstarter.request import Sampling
from songstarter.sampling import guide
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.filling import Prefix

SECONDS = 8
GUIDANCE = Sampling().guidance


@dataclass(frozen=True)
class Quality:
    """Means over every column and codebook of a run."""

    kl_divergence: float  # nats, of what a take is drawn from: after guidance, at temperature 1
    greedy_equal: float  # share of equal likeliest tokens, after guidance
    kl_divergence_before_guidance: float
    greedy_equal_before_guidance: float


@dataclass(frozen=True)
class Run:
    """What is played: ``columns`` [codebook, column] after a prefix."""

    prefix: Prefix
    columns: Array


def make_run(loaded: Loaded, seconds: int = SECONDS) -> Run:
    """Random columns after a random prefix."""
    random = np.random.default_rng(0)
    shape = (PREFIX, loaded.model.decoder.config.hidden_size)
    prefix = Prefix(random.standard_normal(shape, np.float32), random.standard_normal(shape, np.float32))
    columns = random.integers(0, loaded.model.decoder.config.vocab_size, (loaded.codebooks, columns_of(seconds)))
    return Run(prefix, columns)


def reference_logits(loaded: Loaded, run: Run) -> Array:
    """[column, 2, codebook, token]: what the torch module says, all columns in one call."""
    codebooks, count = run.columns.shape
    decoder = loaded.model.decoder
    rows = torch.from_numpy(np.stack(run.prefix.rows)).to(decoder.device, decoder.dtype)
    ids = torch.from_numpy(run.columns).expand(len(rows), -1, -1).reshape(-1, count)
    with torch.inference_mode():
        logits = decoder(input_ids=ids.to(decoder.device), encoder_hidden_states=rows).logits
    by_row: Array = logits.reshape(len(rows), codebooks, -1, logits.shape[-1])[:, :, -count:].float().cpu().numpy()
    return by_row.transpose(2, 0, 1, 3)


def played_logits(repository: Path, checkpoint: Checkpoint, run: Run, threads: int) -> Array:
    """The same from an exported decoder, column by column."""
    stage = DecoderStage(repository, checkpoint, slots=1, threads=threads)
    filling = stage.begin(0, run.prefix, run.columns[:, :0])
    while not filling.done:
        stage.fill(filling, filling.left)
    steps = enumerate(run.columns.T)
    return np.stack([stage.step(column[None], filling.lengths[None] + step)[0] for step, column in steps])


def compare(reference: Array, found: Array) -> Quality:
    """Logits [column, 2, codebook, token] of both sides, guided row first."""
    mixed = [guide(logits[:, 0], logits[:, 1], GUIDANCE) for logits in (reference, found)]
    return Quality(*_distance(*mixed), *_distance(reference, found))


def _distance(reference: Array, found: Array) -> tuple[float, float]:
    """Mean divergence of the reference from what was found, and the share of equal likeliest tokens."""
    expected, got = _log_shares(reference), _log_shares(found)
    divergence = (np.exp(expected) * (expected - got)).sum(axis=-1)
    equal = reference.argmax(axis=-1) == found.argmax(axis=-1)
    return float(divergence.mean()), float(equal.mean())


def _log_shares(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    shares: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shares
