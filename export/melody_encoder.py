"""A melody to its embeddings: which pitch class is loudest, eight times a second (spec 3.2, items 4 to 6)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers.audio_utils import chroma_filter_bank

from export.checkpoints import Loaded
from export.spectrum import PowerSpectrum
from export.tracing import trace
from export.verify import Check, largest_difference, run_graph
from songstarter.contract import MELODY_ENCODER, MELODY_ENCODER_INPUTS, MELODY_ENCODER_OUTPUTS

POINTS = 16_384  # samples of a spectrum
HOP = 4_096  # samples from one to the next
BLOCK = 32 * HOP  # samples, four seconds: a short melody needs the spectra of as many as it fills
TOLERANCE = 1e-4


def samples_of(frames: int) -> int:
    """How many samples that many spectra, centred on every hop, can see."""
    return (frames - 1) * HOP + POINTS // 2


def chroma_filters(loaded: Loaded) -> torch.Tensor:
    """The filter bank of the library's own feature extractor: [pitch class, frequency]."""
    rate, classes = loaded.codec.config.sampling_rate, loaded.model.config.num_chroma
    bank = chroma_filter_bank(sampling_rate=rate, num_frequency_bins=POINTS, tuning=0, num_chroma=classes)
    return torch.from_numpy(bank).float()


class MelodyEncoder(nn.Module):
    """Each row's spectra are mirrored at its own end, and its frames repeated until the prefix is full.

    Of a frame only the loudest pitch class counts, so the original's division by the loudest is left out, and a
    one followed by a linear layer is the look-up of a row. Of equals, and of silence, the first class is taken.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.frames = loaded.model.config.chroma_length
        window = torch.hann_window(POINTS)
        self.spectrum = PowerSpectrum(window / window.pow(2).sum().sqrt())
        self.filters = nn.Buffer(self.spectrum.reorder(chroma_filters(loaded)).T.contiguous())
        projection = loaded.model.audio_enc_to_dec_proj
        self.table = nn.Buffer((projection.weight.T + projection.bias).detach().contiguous())

    def forward(self, waveform: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """[batch, sample], a multiple of HOP of them, and [batch, 1] -> [batch, chroma frame, hidden]."""
        hops = self._mirrored(waveform, samples).unflatten(1, (-1, HOP))
        overlap = POINTS // HOP
        spectra = waveform.shape[1] // HOP + 1
        frames = torch.cat([hops[:, start : start + spectra] for start in range(overlap)], dim=2)
        loudest = (self.spectrum(frames) @ self.filters).argmax(2)
        real = samples.clamp(min=POINTS).div(HOP, rounding_mode="trunc") + 1
        return nn.functional.embedding(loudest.gather(1, torch.arange(self.frames) % real), self.table)

    def _mirrored(self, waveform: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """The row with half a spectrum in front and behind; a row shorter than a spectrum stands in its middle."""
        length = samples.clamp(min=POINTS)
        shift = (length - samples).div(2, rounding_mode="trunc")
        places = torch.arange(-POINTS // 2, waveform.shape[1] + POINTS // 2).abs()
        places = places.minimum(2 * (length - 1) - places) - shift
        inside = (places >= 0) & (places < samples)
        return waveform.gather(1, places.clamp(0, waveform.shape[1] - 1)) * inside.to(waveform.dtype)


def export_melody_encoder(loaded: Loaded, folder: Path) -> list[Check]:
    """Write the graph into ``folder`` and check it on melodies of different lengths."""
    width = samples_of(loaded.model.config.chroma_length)
    path = trace(
        MelodyEncoder(loaded),
        random_melodies([width, 20_000], width),
        folder,
        inputs=MELODY_ENCODER_INPUTS,
        outputs=MELODY_ENCODER_OUTPUTS,
    )
    found, expected = [], []
    for padded, lengths in ((width, [width, 5_001, 300_000]), (BLOCK, [BLOCK, 5_001, 100_000])):
        waveform, samples = random_melodies(lengths, padded)
        found += list(run_graph(path, {"waveform": waveform, "samples": samples})["embeddings"])
        expected += [embedded_alone(loaded, row[:length]) for row, length in zip(waveform, lengths, strict=True)]
    return [Check(MELODY_ENCODER, "embeddings", largest_difference(found, expected), TOLERANCE)]


def embedded_alone(loaded: Loaded, waveform: torch.Tensor) -> torch.Tensor:
    """What the library's feature extractor and model make of one melody: [sample] -> [chroma frame, hidden]."""
    missing = max(POINTS - len(waveform), 0)
    padded = nn.functional.pad(waveform, (missing // 2, missing - missing // 2))
    window = torch.hann_window(POINTS)
    spectra = torch.stft(padded, POINTS, HOP, window=window, return_complex=True) / window.pow(2).sum().sqrt()
    chroma = nn.functional.normalize(chroma_filters(loaded) @ spectra.abs().pow(2), p=float("inf"), dim=0, eps=1e-6)
    one_hot = nn.functional.one_hot(chroma.argmax(0), loaded.model.config.num_chroma).float()
    with torch.no_grad():
        embedded = loaded.model.audio_enc_to_dec_proj(one_hot)
    length = loaded.model.config.chroma_length
    return embedded.repeat(-(-length // len(embedded)), 1)[:length]


def random_melodies(lengths: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    samples = torch.tensor(lengths)[:, None]
    noise = torch.randn(len(lengths), width, generator=generator) * 0.1
    return noise * (torch.arange(width) < samples), samples
