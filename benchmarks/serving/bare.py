"""The engine without Triton: the same takes, in a process of its own.

    python -m benchmarks.serving.bare --repository FOLDER --scenario NAME --concurrency N --seconds S

What is measured is decoding alone: prompts and audio are encoded before the clock starts, and nothing is rendered.
The orders are those that the public model would send to the decoder, with its own number of slots and threads.
Prints one JSON object: the records and the window, for the arithmetic that the served runs get.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Generator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.serving.asking import Heard
from benchmarks.serving.load import Bounds, Sender, closed_loop
from benchmarks.serving.records import Run
from benchmarks.serving.scenario import Asked, Scenario
from songstarter.array import Array
from songstarter.engine.order import OrderDesk, Response
from songstarter.faces.face import Face
from songstarter.faces.stages import Tensors
from songstarter.faces.visits import Visit
from songstarter.stages.session import Session

PARAMETER = re.compile(r'parameters \{ key: "(\w+)" value \{ string_value: "(\d+)" \} \}')
CONFIG = Path("decoder/config.pbtxt")

Order = Mapping[str, Array]


class Engine:
    """An `Ask` of the engine in this process; every request of the deck is encoded beforehand."""

    def __init__(self, repository: Path, scenario: Scenario) -> None:
        self._deck = scenario.deck
        self._orders = orders(repository, scenario)
        settings = dict(PARAMETER.findall((repository / CONFIG).read_text()))
        self._desk = OrderDesk(
            repository,
            slots=int(settings["slots"]),
            max_waiting=int(settings["max_waiting"]),
            threads=int(settings["threads"]),
        )

    async def __call__(self, asked: Asked) -> Heard:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        failures: list[Exception] = []

        def deliver(response: Response) -> None:  # on the engine's thread
            if isinstance(response.outcome, Exception):
                failures.append(response.outcome)
            if response.last:
                loop.call_soon_threadsafe(over.set_result, None)

        own = {"seed": np.array([asked.fields["seed"]], np.int64), "order": np.array([b"%d" % asked.number], object)}
        self._desk.accept({**self._orders[asked.number % self._deck], **own}, deliver)
        await over
        if failures:
            raise failures[0]
        return Heard(asked.audio_seconds)

    def close(self) -> None:
        self._desk.close()


def orders(repository: Path, scenario: Scenario) -> list[Order]:
    """What the public model would send to the decoder for each card of the deck."""
    face = Face(repository, Encoders(repository))
    return [face.prepare({"prompt": asked.prompt, **asked.fields}, Visit("bare"))[1] for asked in scenario.first()]


class Encoders:
    """The `Stages` before the decoder, in this process."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._sessions: dict[str, Session] = {}

    def run(self, model: str, inputs: Tensors) -> Tensors:
        if model not in self._sessions:
            self._sessions[model] = Session(self._repository / model / "1" / "model.onnx")
        return self._sessions[model].run(inputs)

    def decode(self, inputs: Tensors) -> Generator[Tensors, None, None]:
        raise NotImplementedError("what is to be decoded goes to the engine directly")


async def _run(engine: Engine, scenario: Scenario, concurrency: int, bounds: Bounds) -> Run:
    return await closed_loop(Sender(engine, scenario.requests()), concurrency, bounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.bare", description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--scenario", required=True)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--warmup", type=int, default=1)
    parsed = parser.parse_args()
    scenario = Scenario.read(parsed.scenario)
    engine = Engine(parsed.repository, scenario)
    bounds = Bounds(parsed.seconds, parsed.requests, parsed.warmup)
    run = asyncio.run(_run(engine, scenario, parsed.concurrency, bounds))
    engine.close()
    records = [asdict(record) for record in run.records]
    print(json.dumps({"opened": run.opened, "closed": run.closed, "records": records}))


if __name__ == "__main__":
    main()
