"""The stage models in this process: the same graphs and the same decoder, without Triton between them."""

from __future__ import annotations

import queue
from collections.abc import Generator
from pathlib import Path

from songstarter.engine.order import OrderDesk, Response, outputs
from songstarter.faces.stages import Tensors
from songstarter.stages.session import Session


class LocalStages:
    """Implements ``songstarter.faces.stages.Stages``; use it as a context manager."""

    def __init__(self, repository: Path, *, slots: int = 4) -> None:
        self._repository = repository
        self._sessions: dict[str, Session] = {}
        self._desk = OrderDesk(repository, slots=slots, max_waiting=64)
        self.calls: list[str] = []

    def __enter__(self) -> LocalStages:
        return self

    def __exit__(self, *error: object) -> None:
        self._desk.close()

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.calls.append(model)
        if model not in self._sessions:
            self._sessions[model] = Session(self._repository / model / "1" / "model.onnx")
        return self._sessions[model].run(inputs)

    def decode(self, inputs: Tensors) -> Generator[Tensors, None, None]:
        responses: queue.SimpleQueue[Response] = queue.SimpleQueue()
        takes = self._desk.accept(inputs, responses.put)
        last = False
        try:
            while not last:
                response = responses.get()
                last = response.last
                if isinstance(response.outcome, Exception):
                    raise response.outcome
                yield outputs(response.variation, response.outcome)
        finally:
            for take in takes:
                take.cancel()
