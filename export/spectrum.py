"""The power spectrum of long frames by matrix products alone.

ONNX's own ``STFT`` computes on the CPU only and takes three times as long. A Fourier transform of N = R * R points
is R transforms of R points, a turn of each value, and R transforms again (Cooley and Tukey's first step):

    n = R * a + b,  k = c + R * d
    X[c + R d] = sum_b  w_R^(b d)  ( w_N^(b c)  sum_a  w_R^(a c)  x[R a + b] )

Each inner sum is a product with one small matrix. Of a real signal only d <= R / 2 is needed.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class PowerSpectrum(nn.Module):
    """Squared magnitudes of windowed frames, in the order [c, d] of the drawing above."""

    def __init__(self, window: torch.Tensor) -> None:
        super().__init__()
        self.points = window.numel()
        self.radix = math.isqrt(self.points)
        self.halves = self.radix // 2 + 1
        turns = torch.outer(torch.arange(self.radix), torch.arange(self.radix)).double() * (-2 * torch.pi)
        small, large = turns / self.radix, turns / self.points
        self.window = nn.Buffer(window)
        self.first = nn.Buffer(torch.cat([small.cos(), small.sin()], dim=1).float())
        self.turn_real, self.turn_imaginary = nn.Buffer(large.cos().float()), nn.Buffer(large.sin().float())
        real, imaginary = small[:, : self.halves].cos(), small[:, : self.halves].sin()
        rows = torch.cat([real, imaginary], dim=1), torch.cat([-imaginary, real], dim=1)
        self.second = nn.Buffer(torch.cat(rows).float())

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """[batch, frame, sample] -> [batch, frame, c * d]."""
        grid = (frames * self.window).unflatten(2, (self.radix, self.radix))  # [.., a, b]
        inner = grid.transpose(2, 3) @ self.first  # [.., b, real c | imaginary c]
        real, imaginary = inner[..., : self.radix], inner[..., self.radix :]
        turned_real = real * self.turn_real - imaginary * self.turn_imaginary
        turned_imaginary = real * self.turn_imaginary + imaginary * self.turn_real
        turned = torch.cat([turned_real, turned_imaginary], dim=2)  # [.., real b | imaginary b, c]
        outer = turned.transpose(2, 3) @ self.second  # [.., c, real d | imaginary d]
        power = outer[..., : self.halves].pow(2) + outer[..., self.halves :].pow(2)
        return power.flatten(2)

    def reorder(self, filters: torch.Tensor) -> torch.Tensor:
        """Filters over rising frequencies [.., points / 2 + 1], laid out as the spectrum is: [.., c * d]."""
        rising = torch.arange(self.radix)[:, None] + self.radix * torch.arange(self.halves)
        known = rising < filters.shape[-1]
        return (filters[..., rising.clamp(max=filters.shape[-1] - 1)] * known).flatten(-2)
