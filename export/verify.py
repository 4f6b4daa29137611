"""Does a graph compute what its torch module does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from songstarter.errors import ExportMismatch
from songstarter.stages.session import Session


@dataclass(frozen=True)
class Check:
    """The largest difference between a graph's output and its reference, and how large it may be."""

    graph: str
    output: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # which nothing is that is no number


def run_graph(path: Path, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run a graph on the CPU, as every machine can, and return its outputs by name."""
    results = Session(path).run({name: tensor.numpy() for name, tensor in inputs.items()})
    return {name: torch.from_numpy(result) for name, result in results.items()}


def largest_difference(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest absolute difference over rows of different lengths."""
    return max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True))


def share_unequal(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The share of whole numbers that differ, over rows of different lengths."""
    unequal = sum((one != other).sum().item() for one, other in zip(found, expected, strict=True))
    return unequal / sum(row.numel() for row in expected)


def table(checks: Iterable[Check]) -> str:
    """The checks as lines of text under a heading."""
    lines = [f"{'graph':<16} {'output':<24} {'max error':>10} {'allowed':>10}"]
    for check in checks:
        verdict = "" if check.passed else "  FAILED"
        lines.append(f"{check.graph:<16} {check.output:<24} {check.error:>10.1e} {check.tolerance:>10.1e}{verdict}")
    return "\n".join(lines)


def require_agreement(checks: Iterable[Check]) -> None:
    """Raise unless every graph agrees with its module.

    Raises:
        ExportMismatch: it names the first that does not.
    """
    for check in checks:
        if not check.passed:
            raise ExportMismatch(
                f"{check.graph}: {check.output} differs from its torch module by {check.error:.1e}, "
                f"allowed is {check.tolerance:.1e}: nothing was exported"
            )
