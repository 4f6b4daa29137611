"""Train text encoder and decoder: ``python -m training.decoder``. A run that was cut off goes on where it was.

First on all pieces, to learn how such music goes; then on a small repertoire, until it can play that from its prompts.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import EncodecModel

from export.checkpoints.loaded import Loaded, save
from training.codec import WORK, learning_rate
from training.composer import compose
from training.musicgen import logits, make_musicgen, text_embeddings
from training.pacing import as_composed
from training.pieces import kept_pieces
from training.together import average_gradients, run_together
from training.tokenizer import make_tokenizer
from training.windows import PATTERN, Batch, Windows

DEMO = 10_006_460  # the seed whose prompt is that of `make demo`
SONGS, HELD_OUT = range(1_200), range(1_000_000, 1_000_048)
REPERTOIRE_SONGS = (*[seed for seed in SONGS if len(compose(seed).tags) == 3][72:95], DEMO)
CODEBOOK_WEIGHTS = torch.tensor((1.6, 1.0, 0.8, 0.6))  # what is heard most counts most
KEPT_EVERY, SAID_EVERY = 100, 20  # steps
LEAST_RATE = 2e-5  # of learning


@dataclass(frozen=True)
class Phase:
    """So many steps, up to a learning rate within so many, and down again."""

    steps: int
    warm_up: int
    rate: float


AT_LARGE, REPERTOIRE = PHASES = (Phase(2300, 100, 1.5e-3), Phase(1170, 20, 1.2e-3))
PIECES = {"pieces": SONGS, "repertoire": REPERTOIRE_SONGS, "held-out": HELD_OUT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="where the codec stands and the state is kept")
    parser.add_argument("--into", type=Path, default=Path("embedded"), help="where the checkpoint is written")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    for name, seeds in PIECES.items():
        kept_pieces(arguments.work / f"{name}.pickle", seeds, arguments.work / "codec", arguments.processes)
    run_together(arguments.processes, _train, arguments)


def _train(rank: int, arguments: argparse.Namespace) -> None:
    training = DecoderTraining(arguments.work / "codec", rank)
    state = arguments.work / "decoder.pt"
    if state.exists():
        training.resume(state)
    kept = [
        kept_pieces(arguments.work / f"{name}.pickle", seeds, arguments.work / "codec", 1)
        for name, seeds in PIECES.items()
    ]
    songs, repertoire, unheard = Windows(kept[0]), Windows(kept[1], as_composed), Windows(kept[2])
    _run(training, AT_LARGE, songs, unheard, state if rank == 0 else None)
    training.begin(REPERTOIRE)
    _run(training, REPERTOIRE, repertoire, unheard, state if rank == 0 else None)
    if rank == 0:
        save(training.finished(), arguments.into)


def _run(training: DecoderTraining, phase: Phase, songs: Windows, unheard: Windows, state: Path | None) -> None:
    """Learn to the phase's end; the process that has a place for the state tells and keeps."""
    began, losses = time.monotonic(), []
    while training.phase is phase and training.step < phase.steps:
        losses.append(training.learn(songs))
        if state is None:
            continue
        if training.step % SAID_EVERY == 0:
            mean = torch.tensor(losses[-SAID_EVERY:]).mean(0)
            print(f"step {training.step}  loss {_said(mean)}  {time.monotonic() - began:.0f} s", flush=True)
        if training.step % KEPT_EVERY == 0:
            training.keep(state)
            print(f"step {training.step}  held out {_said(training.judge(unheard))}", flush=True)


def _said(losses: torch.Tensor) -> str:
    return f"{losses.mean():.4f} ({' '.join(f'{loss:.3f}' for loss in losses)})"


class DecoderTraining:
    """The model and its optimiser; ``phase`` and ``step`` are where it stands."""

    def __init__(self, codec: Path, rank: int = 0) -> None:
        torch.manual_seed(0)
        self.tokenizer = make_tokenizer()
        self.model = make_musicgen(EncodecModel.from_pretrained(codec), len(self.tokenizer))
        self.model.audio_encoder.requires_grad_(False)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        flat = [weight for weight in self.weights if weight.ndim < 2]
        deep = [weight for weight in self.weights if weight.ndim >= 2]
        groups = [{"params": deep, "weight_decay": 0.03}, {"params": flat, "weight_decay": 0.0}]
        self._groups, self._rank = groups, rank
        self.begin(AT_LARGE)

    def begin(self, phase: Phase) -> None:
        """Begin a phase, unless it is under way already."""
        if getattr(self, "phase", None) is not phase:
            self.phase, self.step = phase, 0
            self.optimiser = torch.optim.AdamW(self._groups, lr=phase.rate, betas=(0.9, 0.97), fused=True)

    def learn(self, windows: Windows) -> list[float]:
        """One step; the loss of each codebook, channels together."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.phase.steps, self.phase.rate, LEAST_RATE, self.phase.warm_up)
        losses = self._losses(windows.batch(self.step, self._rank))
        self.optimiser.zero_grad()
        (losses * CODEBOOK_WEIGHTS).mean().backward()
        average_gradients(self.weights)
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.step += 1
        return losses.tolist()

    @torch.no_grad()
    def judge(self, windows: Windows) -> torch.Tensor:
        """The losses on songs that were never learned from."""
        return torch.stack([self._losses(windows.batch(step, corrupt=False)) for step in range(4)]).mean(0)

    def _losses(self, batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            text = text_embeddings(self.model, batch.tokens, batch.kept)
            found = logits(self.model, batch.chroma, text, batch.columns, batch.places)
        wanted = batch.wanted
        losses = F.cross_entropy(
            found.flatten(0, 2).float(), wanted.flatten(), ignore_index=PATTERN.special, reduction="none"
        )
        of_codebooks = losses.view(wanted.shape).transpose(0, 1).flatten(1)
        known = (wanted != PATTERN.special).transpose(0, 1).flatten(1)
        return (of_codebooks.sum(1) / known.sum(1)).view(-1, 2).mean(1)

    def keep(self, path: Path) -> None:
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step}
        state["phase"] = PHASES.index(self.phase)
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.begin(PHASES[state["phase"]])
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def finished(self) -> Loaded:
        """The checkpoint, in half precision as it is stored."""
        return Loaded("embedded", self.model.half().eval(), self.tokenizer)


if __name__ == "__main__":
    main()
