"""What the faces ask of the stage models, wherever these run: behind Triton, or in this process in tests."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Protocol

from songstarter.array import Array

Tensors = Mapping[str, Array]


class Stages(Protocol):
    """The doorway to the other models; tensors go by the names of ``contract.py``."""

    def run(self, model: str, inputs: Tensors) -> Tensors:
        """One call of a stage model, every tensor with a batch dimension in front."""

    def decode(self, inputs: Tensors) -> Generator[Tensors, None, None]:
        """The decoder's responses to one order, each as it comes; closed early, the order is cancelled."""
