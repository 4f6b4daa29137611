"""The stage models in this process: the same graphs and the same decoder, without Triton between them."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Generator
from pathlib import Path

from songstarter.engine.order import OrderDesk, Response, outputs
from songstarter.faces.stages import Tensors
from songstarter.stages.session import Session

PARAMETER = re.compile(r'parameters \{ key: "(\w+)" value \{ string_value: "(\d+)" \} \}')


class LocalStages:
    """Implements ``songstarter.faces.stages.Stages``, from any thread; use it as a context manager."""

    def __init__(self, repository: Path, *, slots: int = 4, max_waiting: int = 64, threads: int = 0) -> None:
        self._repository = repository
        self._sessions: dict[str, Session] = {}
        self._one_at_a_time = threading.Lock()  # as an instance of a model in Triton
        self._desk = OrderDesk(repository, slots=slots, max_waiting=max_waiting, threads=threads)
        self.calls: list[str] = []

    @classmethod
    def as_served(cls, repository: Path) -> LocalStages:
        """With the numbers of the decoder's own configuration."""
        found = dict(PARAMETER.findall((repository / "decoder" / "config.pbtxt").read_text()))
        numbers = {name: int(found[name]) for name in ("slots", "max_waiting", "threads")}
        return cls(repository, **numbers)

    def __enter__(self) -> LocalStages:
        return self

    def __exit__(self, *error: object) -> None:
        self._desk.close()

    def run(self, model: str, inputs: Tensors) -> Tensors:
        with self._one_at_a_time:
            self.calls.append(model)
            if model not in self._sessions:
                self._sessions[model] = Session(self._repository / model / "1" / "model.onnx", spins=False)
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
