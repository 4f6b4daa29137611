"""Ours, in a process of its own: should it crash on a device nobody has tried, what it measured until then is kept.

    python -m benchmarks.gpu_side play FOLDER --device cuda --columns run.npz --into played.npz
    python -m benchmarks.gpu_side measure FOLDER --device cuda --songs 1,4 --contexts 247,650 --steps 16 --watch 4

``measure`` prints lines of JSON: who computes, each number of songs and context, and at the end the kernels of a step
for each number of songs to ``--watch``. ``play`` keeps logits and drawn columns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import numbers
from benchmarks.ours import OurDecode
from songstarter.checkpoint import Checkpoint
from songstarter.request import Sampling
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.device_decoder import DeviceDecoder
from songstarter.stages.filling import Prefix
from songstarter.stages.opening import open_decoder
from songstarter.stages.sampler import Draw

SEED = 5


def main() -> None:
    parsed = _parse()
    {"play": play, "measure": measure}[parsed.verb](parsed)


def play(parsed: argparse.Namespace) -> None:
    """Feed known columns one after the other; keep the logits and what the device would have drawn.

    The run stands in the first and in the last slot: whether both get the same bits is told.
    """
    run = np.load(parsed.columns)
    checkpoint = Checkpoint.read(parsed.folder)
    stage = open_decoder(parsed.folder, checkpoint, slots=parsed.slots, device=parsed.device)
    assert isinstance(stage, DeviceDecoder)
    first, last = places = 0, parsed.slots - 1
    lengths = np.zeros((parsed.slots, 2), np.int64)
    for slot in places:
        lengths[slot] = _fill(stage, slot, Prefix(run["guided"], run["null"]))
    fed = np.full((parsed.slots, checkpoint.codebooks), checkpoint.special_token)
    logits, drawn, alike = [], [], True
    for step, column in enumerate(run["columns"].T):
        fed[list(places)] = column
        found = stage.next_columns(fed, lengths, dict.fromkeys(places, draw_of(step)))[last]
        drawn.append(np.full(len(column), -1) if found is None else found)
        every = stage.last_logits()
        alike = alike and bool((every[first] == every[last]).all())
        logits.append(every[last])
        lengths[list(places)] += 1
    np.savez(parsed.into, logits=np.stack(logits), drawn=np.stack(drawn))
    _say(computed_by=stage.computed_by, same_at_any_place=alike)


def draw_of(step: int) -> Draw:
    """Where a played run draws its columns."""
    return Draw(Sampling(), SEED, 0, step)


def measure(parsed: argparse.Namespace) -> None:
    """Time steps; what goes wrong with one number of songs does not end the others."""
    checkpoint = Checkpoint.read(parsed.folder)
    with OurDecode(parsed.folder, checkpoint, slots=max(parsed.songs), device=parsed.device) as ours:
        _say(computed_by=ours.computed_by)
        for songs in parsed.songs:
            try:
                for context in parsed.contexts:
                    steps = ours.measure(songs, context, parsed.steps)
                    seconds, in_model = [step.seconds for step in steps], [step.in_model for step in steps]
                    _say(songs=songs, context=context, seconds=seconds, in_model=in_model)
            except Exception as error:  # a finding, like a time
                _say(songs=songs, error=f"{type(error).__name__}: {error}".splitlines()[0])
        for songs in parsed.watch:
            _say(songs=songs, kernels=_kernels(ours, songs, parsed.contexts[0], parsed.steps))


def _kernels(ours: OurDecode, songs: int, context: int, steps: int) -> dict[str, Any]:
    from benchmarks.gpu_kernels import Kernels  # torch, which nothing else here needs

    kernels = Kernels(steps)
    ours.measure(songs, context, steps, kernels.watched())
    return kernels.summary()


def _fill(stage: DecoderStage, slot: int, prefix: Prefix) -> np.ndarray:
    filling = stage.begin(slot, prefix, np.zeros((stage.codebooks, 0), np.int64))
    while not filling.done:
        stage.fill(filling, filling.left)
    return filling.lengths


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_side", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=["play", "measure"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--slots", type=int, default=1, help="a run is played in the last of so many")
    parser.add_argument("--columns", type=Path)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--songs", type=numbers, default=[1])
    parser.add_argument("--contexts", type=numbers, default=[])
    parser.add_argument("--watch", type=numbers, default=[])
    parser.add_argument("--steps", type=int, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    main()
