"""Residual vector quantisation that learns: codebooks follow the mean of what they are chosen for.

The library's class only looks codes up. Here a chosen vector passes its gradient straight through, codebooks move by
exponential averages, and a vector that nobody chooses begins again at a latent that nobody is near (EnCodec's recipe).
"""

from __future__ import annotations

import torch
from torch import nn

from training.together import average, share_first

DECAY = 0.98
DEAD = 0.03  # of an even share


class Codebook(nn.Module):
    def __init__(self, size: int, latent: int) -> None:
        super().__init__()
        self.vectors = nn.Buffer(torch.randn(size, latent))
        self.counts = nn.Buffer(torch.ones(size))
        self.sums = nn.Buffer(self.vectors.clone())

    def choose(self, latents: torch.Tensor) -> torch.Tensor:
        """[vector, latent] -> [vector], the nearest of each."""
        return (latents @ self.vectors.T - 0.5 * self.vectors.pow(2).sum(1)).argmax(1)

    @torch.no_grad()
    def spread(self, latents: torch.Tensor, rounds: int = 15) -> None:
        """K-means, from vectors drawn among the latents."""
        size = len(self.vectors)
        self.vectors.copy_(latents[torch.randperm(len(latents))[:size]])
        for _ in range(rounds):
            self._measure(latents)
            counts, sums = self._count, self._sum
            empty = counts == 0
            self.vectors.copy_(sums / counts.clamp(min=1)[:, None])
            self.vectors[empty] = latents[torch.randint(len(latents), (int(empty.sum()),))]
        share = len(latents) / size
        self.counts.fill_(1.0)
        self.sums.copy_(self.vectors)
        self.counts.mul_(share)
        self.sums.mul_(share)

    @torch.no_grad()
    def follow(self, latents: torch.Tensor) -> None:
        self._measure(latents)
        average([self._count, self._sum])
        self.counts.lerp_(self._count, 1 - DECAY)
        self.sums.lerp_(self._sum, 1 - DECAY)
        share = self.counts.sum() / len(self.counts)
        dead = (self.counts < DEAD * share).nonzero()[:, 0]
        if len(dead):
            born = latents[torch.randint(len(latents), (len(dead),))]
            share_first([born])  # the processes keep the same codebook
            self.sums[dead] = born * share
            self.counts[dead] = share
        self.vectors.copy_(self.sums / self.counts[:, None])

    def _measure(self, latents: torch.Tensor) -> None:
        chosen = self.choose(latents)
        self._count = torch.bincount(chosen, minlength=len(self.vectors)).float()
        self._sum = torch.zeros_like(self.vectors).index_add_(0, chosen, latents)


class ResidualQuantiser(nn.Module):
    """Codebooks in a row, each for what the ones before left over."""

    def __init__(self, codebooks: int, size: int, latent: int) -> None:
        super().__init__()
        self.codebooks = nn.ModuleList(Codebook(size, latent) for _ in range(codebooks))

    def spread(self, latents: torch.Tensor) -> None:
        """Begin from latents [vector, latent]."""
        for codebook in self.codebooks:
            codebook.spread(latents)
            latents = latents - codebook.vectors[codebook.choose(latents)]

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, latent, frame] -> the same, quantised, and how far the encoder was from it."""
        flat = latents.transpose(1, 2).reshape(-1, latents.shape[1])
        left, loss = flat, flat.new_zeros(())
        for codebook in self.codebooks:
            found = codebook.vectors[codebook.choose(left.detach())]
            loss = loss + (left - found).pow(2).mean()
            if self.training:
                codebook.follow(left.detach())
            left = left - found
        quantised = (flat + (-left).detach()).view(latents.shape[0], -1, latents.shape[1]).transpose(1, 2)
        return quantised, loss
