"""The stage models in this process: the same graphs and the same decoder, without Triton between them."""

from __future__ import annotations

import importlib
import queue
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from songstarter.array import Array
from songstarter.contract import DECODER
from songstarter.engine.order import OrderDesk, Response, outputs
from songstarter.faces.stages import Tensors
from songstarter.settings import parameters
from songstarter.stages.session import Session

COUNT = re.compile(r"instance_group \[ \{ kind: \w+ count: (\d+) \} \]")


class Computation(Protocol):
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]: ...


class Instances:
    """A stage model's instances: so many runs at once, of so many threads each, as its configuration says."""

    def __init__(self, sessions: Sequence[Computation]) -> None:
        self._free: queue.SimpleQueue[Computation] = queue.SimpleQueue()
        for session in sessions:
            self._free.put(session)

    @classmethod
    def of(cls, folder: Path) -> Instances:
        config = (folder / "config.pbtxt").read_text()
        settings = parameters(folder.parent, folder.name)
        graph, threads = folder / "1" / "model.onnx", int(settings["intra_op_thread_count"])
        twin = importlib.import_module(settings["twin"]).open_twin if "twin" in settings else lambda graph: None
        count = COUNT.search(config)
        assert count is not None
        return cls([twin(graph) or Session(graph, threads=threads, spins=False) for _ in range(int(count[1]))])

    def run(self, inputs: Tensors) -> Tensors:
        session = self._free.get()
        try:
            return session.run(inputs)
        finally:
            self._free.put(session)


class LocalStages:
    """Implements ``songstarter.faces.stages.Stages``, from any thread; use it as a context manager."""

    def __init__(self, repository: Path, *, slots: int = 4, max_waiting: int = 64, threads: int = 0) -> None:
        self._repository = repository
        self._instances: dict[str, Instances] = {}
        self._opening = threading.Lock()
        self._desk = OrderDesk(repository, slots=slots, max_waiting=max_waiting, threads=threads)
        self.calls: list[str] = []

    @classmethod
    def as_served(cls, repository: Path) -> LocalStages:
        """With the numbers of the decoder's own configuration."""
        found = parameters(repository, DECODER)
        numbers = {name: int(found[name]) for name in ("slots", "max_waiting", "threads")}
        return cls(repository, **numbers)

    def __enter__(self) -> LocalStages:
        return self

    def __exit__(self, *error: object) -> None:
        self._desk.close()

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.calls.append(model)
        with self._opening:
            if model not in self._instances:
                self._instances[model] = Instances.of(self._repository / model)
        return self._instances[model].run(inputs)

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
