"""Train the codec: ``python -m training.codec``. A run that was cut off goes on where it was.

First the two halves alone, then, from k-means on what the encoder says, with the residual quantiser between them.
The loss is the waveform's and that of spectrograms at four resolutions; there is no adversary.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel

from training.composer import compose
from training.quantiser import ResidualQuantiser
from training.rendering import looped, render
from training.synthesiser import SAMPLES_PER_FRAME
from training.together import average_gradients, run_together

CODEBOOKS, CODEBOOK_SIZE, LATENT, FILTERS = 4, 512, 64, 16
STEPS, UNQUANTISED, WARM_UP = 3600, 1600, 200
HORIZON = 3700  # the step at which the learning rate would be at its least
ROWS, CROP_FRAMES = 4, 25  # in each process
LEADS = 0.65  # of the crops: there is more to learn than on the other side
RATE, LEAST_RATE = 2e-3, 5e-5  # of learning
SONGS = 600
RESOLUTIONS = (2048, 1024, 512, 256)
COMMITMENT = 0.5
SAID_EVERY, KEPT_EVERY = 50, 250  # steps
WORK = Path("build/training")


def make_codec() -> EncodecModel:
    """On the grid of ``facebook/encodec_32khz``, a quarter as wide."""
    config = EncodecConfig(
        sampling_rate=32_000,
        audio_channels=1,
        target_bandwidths=[2.2],
        num_filters=FILTERS,
        hidden_size=LATENT,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=CODEBOOK_SIZE,
        use_causal_conv=False,
        pad_mode="reflect",
        use_conv_shortcut=False,
    )
    codec = EncodecModel(config)
    assert codec.quantizer.num_quantizers == CODEBOOKS
    return codec


class Crops:
    """Half-seconds of one side, most of them beginning on a frame as the songs' notes do."""

    def __init__(self, songs: range) -> None:
        self._cycles = [render(compose(seed)).astype(np.float16) for seed in songs]

    def batch(self, random: np.random.Generator) -> torch.Tensor:
        """[batch, 1, sample]"""
        return torch.from_numpy(np.stack([self._crop(random) for _ in range(ROWS)]))[:, None]

    def _crop(self, random: np.random.Generator) -> np.ndarray:
        cycle = self._cycles[random.integers(len(self._cycles))]
        side = cycle[int(random.random() >= LEADS)]
        start = random.integers(len(side))
        if random.random() < 0.75:
            start -= start % SAMPLES_PER_FRAME
        crop = looped(side, CROP_FRAMES * SAMPLES_PER_FRAME, start)
        return crop.astype(np.float32) * np.float32(random.uniform(0.7, 1.1))


def spectral_distance(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Log magnitudes and relative magnitudes, over four resolutions: [batch, sample] twice -> a number."""
    total = found.new_zeros(())
    for points in RESOLUTIONS:
        window = torch.hann_window(points)
        ours, theirs = (
            torch.stft(x, points, points // 4, window=window, return_complex=True).abs() for x in (found, wanted)
        )
        log = ((ours + 1e-3 * math.sqrt(points)).log() - (theirs + 1e-3 * math.sqrt(points)).log()).abs().mean()
        relative = (ours - theirs).norm() / theirs.norm()
        total = total + log + relative
    return total / len(RESOLUTIONS)


def learning_rate(step: int, steps: int, highest: float, least: float, warm_up: int) -> float:
    """Up in a line, down in half a cosine."""
    if step < warm_up:
        return highest * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return least + (highest - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class CodecTraining:
    """The codec, its quantiser and its optimiser; ``step`` is where it stands."""

    def __init__(self, rank: int = 0) -> None:
        torch.manual_seed(0)
        self._rank = rank
        self.codec = make_codec().train()
        self.quantiser = ResidualQuantiser(CODEBOOKS, CODEBOOK_SIZE, LATENT)
        halves = [*self.codec.encoder.parameters(), *self.codec.decoder.parameters()]
        self.optimiser = torch.optim.AdamW(halves, lr=RATE, betas=(0.8, 0.99), weight_decay=0.0)
        self.step = 0

    def learn(self, crops: Crops) -> dict[str, float]:
        """One step; what it lost, by name."""
        if self.step == UNQUANTISED:
            self._begin_to_quantise(crops)
        random = np.random.default_rng((self.step, self._rank))
        wanted = crops.batch(random)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, HORIZON, RATE, LEAST_RATE, WARM_UP)
        latents = self.codec.encoder(wanted)
        quantised, distance = self.quantiser(latents) if self.step >= UNQUANTISED else (latents, latents.new_zeros(()))
        found = self.codec.decoder(quantised)[..., : wanted.shape[-1]]
        spectral = spectral_distance(found[:, 0], wanted[:, 0])
        waveform = (found - wanted).abs().mean() / wanted.abs().mean()
        loss = spectral + 2 * waveform + COMMITMENT * distance
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(list(self.codec.parameters()))
        nn.utils.clip_grad_norm_(self.codec.parameters(), 2.0)
        self.optimiser.step()
        self.step += 1
        return {"spectral": spectral.item(), "waveform": waveform.item(), "commitment": distance.item()}

    @torch.no_grad()
    def _begin_to_quantise(self, crops: Crops) -> None:
        random = np.random.default_rng(2)
        latents = torch.cat([self.codec.encoder(crops.batch(random)) for _ in range(100)])
        self.quantiser.spread(latents.transpose(1, 2).reshape(-1, LATENT))

    def keep(self, path: Path) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("codec", "quantiser", "optimiser")}
        torch.save({**state, "step": self.step}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name in ("codec", "quantiser", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]

    def finished(self) -> EncodecModel:
        """The codec with the codebooks that were learned."""
        for layer, codebook in zip(self.codec.quantizer.layers, self.quantiser.codebooks, strict=True):
            layer.codebook.embed.copy_(codebook.vectors)
            layer.codebook.embed_avg.copy_(codebook.vectors)
        return self.codec.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="where the state and the codec are kept")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    run_together(arguments.processes, _train, arguments.work, arguments.steps)


def _train(rank: int, work: Path, steps: int) -> None:
    """Learn to the end; the first process tells and keeps."""
    training, state = CodecTraining(rank), work / "codec.pt"
    if state.exists():
        training.resume(state)
    crops = Crops(range(SONGS))
    sums: dict[str, float] = {}
    began = time.monotonic()
    while training.step < steps:
        for name, value in training.learn(crops).items():
            sums[name] = sums.get(name, 0.0) + value
        if rank == 0 and training.step % SAID_EVERY == 0:
            means = "  ".join(f"{name} {value / SAID_EVERY:.4f}" for name, value in sums.items())
            print(f"step {training.step}  {means}  {time.monotonic() - began:.0f} s", flush=True)
            sums.clear()
        if rank == 0 and training.step % KEPT_EVERY == 0:
            training.keep(state)
    if rank == 0:
        training.finished().save_pretrained(work / "codec")


if __name__ == "__main__":
    main()
