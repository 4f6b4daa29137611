"""Weights of 4 bits, each rounded with a look at what those beside it have been rounded to (GPTQ, arXiv 2210.17323).

    weight = scale of its output channel * factor of its group of 32 inputs, 1 to 8 * a level from -8 to 7

Rounding to the nearest level loses much at 4 bits. But an output is a sum over inputs that go together, so that one
weight's error can be made good by those that are not rounded yet: by how much, the inputs' second moments tell. They
are those of songs that go through the decoder once, so that a matrix is rounded for inputs as those before it leave
them. Factors are whole numbers: factor * level is a level of the int8 form, whose graph and products serve for this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from export.songs import Songs

GROUP = 32
LOWEST, HIGHEST = -8, 7
MOST_FACTOR = 8
DAMPING = 0.01  # of the mean square input, added to every one: what songs never did may come
LEFT_ALONE = (".encoder_attn.k_proj", ".encoder_attn.v_proj")  # a text's own: once in a take


@dataclass(frozen=True)
class Rounded:
    """A matrix as int8 levels [out, in], each a group's factor times 4 bits, and fp32 scales [out]."""

    levels: np.ndarray
    scales: np.ndarray


def round_weights(decoder: torch.nn.Module, songs: Songs) -> Mapping[str, Rounded]:
    """Every matrix of a step by its module's name; the decoder stays as it is.

    ``decoder`` is a transformers ``MusicgenForCausalLM`` or its melody sister.
    """
    rounded: dict[str, Rounded] = {}
    correction = _Correction()

    def before(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor]], None]:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            rounded[name] = _round(module.weight.detach().float(), correction.of(inputs[0]))
            whole[name] = module.weight
            module.weight = torch.nn.Parameter(_numbers(rounded[name]).to(module.weight), requires_grad=False)

        return hook

    def after(name: str) -> Callable[[torch.nn.Module, object, object], None]:
        def hook(module: torch.nn.Module, inputs: object, outputs: object) -> None:
            module.weight = whole.pop(name)

        return hook

    whole: dict[str, torch.nn.Parameter] = {}
    handles = []
    for name, module in decoder.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(LEFT_ALONE):
            handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    try:
        songs.play(decoder)
    finally:
        for handle in handles:
            handle.remove()
    return rounded


class _Correction:
    """By how much weights make good the error of one before them; matrices of the same input share it."""

    def __init__(self) -> None:
        self._input: torch.Tensor | None = None
        self._factor = torch.empty(0)

    def of(self, inputs: torch.Tensor) -> torch.Tensor:
        """The upper factor [in, in] of the inverse of the second moments of inputs [..., in]."""
        if self._input is not inputs:
            self._input = inputs
            rows = inputs.detach().float().flatten(0, -2)
            moments = rows.T @ rows / len(rows)
            moments += torch.eye(len(moments)) * (DAMPING * moments.diagonal().mean() + 1e-12)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
            self._factor = torch.linalg.cholesky(inverse, upper=True)
        return self._factor


def _round(weight: torch.Tensor, factor: torch.Tensor) -> Rounded:
    """``weight`` [out, in], an input after the other."""
    left = weight.clone()
    scales = left.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / (MOST_FACTOR * -LOWEST)
    levels = torch.zeros_like(left)
    for start in range(0, left.shape[1], GROUP):
        group = slice(start, start + GROUP)
        steps = scales * _factors(left[:, group] / scales)
        errors = torch.zeros_like(left[:, group])
        for place in range(start, start + GROUP):
            column = left[:, place : place + 1]
            level = (column / steps).round().clamp(LOWEST, HIGHEST)
            levels[:, place : place + 1] = level * steps / scales
            error = (column - level * steps) / factor[place, place]
            errors[:, place - start : place - start + 1] = error
            left[:, place + 1 : start + GROUP] -= error * factor[place, place + 1 : start + GROUP]
        left[:, start + GROUP :] -= errors @ factor[group, start + GROUP :]
    return Rounded(levels.round().to(torch.int8).numpy(), scales[:, 0].numpy())


def _factors(group: torch.Tensor) -> torch.Tensor:
    """The factor [out, 1] by which levels come nearest to a group [out, GROUP] of weights, in scales."""
    errors = [
        ((group / factor).round().clamp(LOWEST, HIGHEST) * factor - group).square().sum(dim=1, keepdim=True)
        for factor in range(1, MOST_FACTOR + 1)
    ]
    return torch.stack(errors).argmin(dim=0) + 1.0


def _numbers(rounded: Rounded) -> torch.Tensor:
    return torch.from_numpy(rounded.levels).float() * torch.from_numpy(rounded.scales)[:, None]
