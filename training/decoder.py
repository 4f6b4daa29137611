"""Train text encoder and decoder: ``python -m training.decoder``. A run that was cut off goes on where it was."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import EncodecModel

from export.checkpoints.loaded import Loaded, save
from training.codec import WORK, learning_rate
from training.musicgen import logits, make_musicgen, text_embeddings
from training.pieces import kept_pieces
from training.together import average_gradients, run_together
from training.tokenizer import make_tokenizer
from training.windows import PATTERN, Batch, Windows

SONGS, HELD_OUT = range(6_000), range(1_000_000, 1_000_048)
STEPS, WARM_UP = 4_500, 150
MATRIX_RATE, OTHER_RATE, LEAST = 3e-3, 2e-3, 0.01  # of learning, and the share of it that is left at the end
DECAY = 0.03
CODEBOOK_WEIGHTS = torch.tensor((1.6, 1.0, 0.8, 0.6))  # what is heard most counts most
KEPT_EVERY, SAID_EVERY = 100, 20  # steps
PIECES = {"pieces": SONGS, "held-out": HELD_OUT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="where the codec stands and the state is kept")
    parser.add_argument("--into", type=Path, default=Path("embedded"), help="where the checkpoint is written")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    for name, seeds in PIECES.items():
        kept_pieces(arguments.work / f"{name}.pickle", seeds, arguments.work / "codec", arguments.processes)
    run_together(arguments.processes, _train, arguments)


def _train(rank: int, arguments: argparse.Namespace) -> None:
    """Learn to the end; the first process tells and keeps."""
    training, state = DecoderTraining(arguments.work / "codec", arguments.steps, rank), arguments.work / "decoder.pt"
    if state.exists():
        training.resume(state)
    songs, unheard = (
        Windows(kept_pieces(arguments.work / f"{name}.pickle", seeds, arguments.work / "codec", 1))
        for name, seeds in PIECES.items()
    )
    began, losses = time.monotonic(), []
    while training.step < arguments.steps:
        losses.append(training.learn(songs))
        if rank > 0:
            continue
        if training.step % SAID_EVERY == 0:
            mean = torch.tensor(losses[-SAID_EVERY:]).mean(0)
            print(f"step {training.step}  loss {_said(mean)}  {time.monotonic() - began:.0f} s", flush=True)
        if training.step % KEPT_EVERY == 0:
            training.keep(state)
            print(f"step {training.step}  held out {_said(training.judge(unheard))}", flush=True)
    if rank == 0:
        save(training.finished(), arguments.into)


def _said(losses: torch.Tensor) -> str:
    return f"{losses.mean():.4f} ({' '.join(f'{loss:.3f}' for loss in losses)})"


class DecoderTraining:
    """The model and its optimisers; ``step`` is where it stands of ``steps``."""

    def __init__(self, codec: Path, steps: int = STEPS, rank: int = 0) -> None:
        torch.manual_seed(0)
        self.tokenizer = make_tokenizer()
        self.model = make_musicgen(EncodecModel.from_pretrained(codec), len(self.tokenizer))
        self.model.audio_encoder.requires_grad_(False)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.step, self._steps, self._rank = 0, steps, rank
        blocks = (self.model.decoder.model.decoder.layers, self.model.text_encoder.encoder.block)
        layers = [weight for block in blocks for weight in block.parameters()]
        matrices = [weight for weight in layers if weight.ndim == 2]
        others = [weight for weight in self.weights if not any(weight is matrix for matrix in matrices)]
        # Matrices between layers learn in steps of the same size in every direction (Muon), all else by AdamW.
        self.optimisers = (
            torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.97), weight_decay=0.0, fused=True),
        )

    def learn(self, windows: Windows) -> list[float]:
        """One step; the loss of each codebook, channels together."""
        share = learning_rate(self.step, self._steps, 1.0, LEAST, WARM_UP)
        for optimiser, rate in zip(self.optimisers, (MATRIX_RATE, OTHER_RATE), strict=True):
            optimiser.param_groups[0]["lr"] = share * rate
            optimiser.zero_grad()
        losses = self._losses(windows.batch(self.step, self._rank))
        (losses * CODEBOOK_WEIGHTS).mean().backward()
        average_gradients(self.weights)
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
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
        optimisers = [optimiser.state_dict() for optimiser in self.optimisers]
        state = {"model": self.model.state_dict(), "optimisers": optimisers, "step": self.step}
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.step = state["step"]

    def finished(self) -> Loaded:
        """The checkpoint, in half precision as it is stored."""
        return Loaded("embedded", self.model.half().eval(), self.tokenizer)


if __name__ == "__main__":
    main()
