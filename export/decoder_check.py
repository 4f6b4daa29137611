"""The decoder as the server will run it, against the torch module it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from export.verify import Check
from songstarter.checkpoint import Checkpoint, Precision
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.filling import Prefix
from songstarter.stages.opening import open_decoder

COLUMNS = 24
KNOWN = (3, 9)  # columns of each slot's first call: slots at lengths of their own
PREFIX = 40
PIECE = 16  # positions that a slot is filled by at a time
# The largest difference allowed, in standard deviations of the logits.
TOLERANCES: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 0.05,
    "fp16_kv8": 0.3,
    "int8": 0.5,
    "int8_kv8": 0.6,
    "int4_kv8": 3.0,
}


def check_decoder(model: torch.nn.Module, repository: Path, checkpoint: Checkpoint) -> Check:
    """Play random columns through two slots at once and compare every logit with the module's.

    It runs on the CPU, which every machine has, whatever device the graph is meant for. ``model`` is a transformers
    ``MusicgenForCausalLM`` or its melody sister.
    """
    stage = open_decoder(repository, checkpoint, slots=len(KNOWN), device="cpu")
    random = np.random.default_rng(0)
    shape = (PREFIX, checkpoint.decoder.hidden)
    prefix = Prefix(random.standard_normal(shape, np.float32), random.standard_normal(shape, np.float32))
    columns = random.integers(0, checkpoint.vocabulary, (checkpoint.codebooks, COLUMNS))
    expected = _module_logits(model, prefix, columns)
    differences = _play(stage, prefix, columns, expected)
    return Check(
        "decoder", "logits", max(differences), TOLERANCES[checkpoint.decoder.precision] * expected.std().item()
    )


def _module_logits(model: torch.nn.Module, prefix: Prefix, columns: np.ndarray) -> np.ndarray:
    """[2, codebook, column, token]: what the module says after each column."""
    codebooks, count = columns.shape
    ids = torch.from_numpy(columns).expand(2, -1, -1).reshape(-1, count)
    with torch.no_grad():
        logits = model(input_ids=ids, encoder_hidden_states=torch.from_numpy(np.stack(prefix.rows))).logits
    array: np.ndarray = logits.reshape(2, codebooks, -1, logits.shape[-1])[:, :, -count:].numpy()
    return array


def _play(stage: DecoderStage, prefix: Prefix, columns: np.ndarray, expected: np.ndarray) -> list[float]:
    """The largest difference of each call of the stage."""
    differences = []
    lengths = np.stack([_fill(stage, slot, prefix, columns[:, :known]) for slot, known in enumerate(KNOWN)])
    for step in range(COLUMNS - max(KNOWN)):
        places = [known + step for known in KNOWN]
        logits = stage.step(columns[:, places].T, lengths + step)
        differences += [_largest(logits[slot], expected[:, :, place]) for slot, place in enumerate(places)]
    return differences


def _fill(stage: DecoderStage, slot: int, prefix: Prefix, columns: np.ndarray) -> np.ndarray:
    filling = stage.begin(slot, prefix, columns)
    while not filling.done:
        stage.fill(filling, PIECE)
    return filling.lengths


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max())
