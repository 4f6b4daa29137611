"""The engine without Triton: the same requests, answered in a process of its own.

    python -m benchmarks.serving.bare --repository FOLDER --scenario NAME --concurrency N --seconds S

The work is that of the served run from values to files (texts and audio encoded, takes decoded with as many slots
and threads, songs rendered), by the same `Face`; what is missing is Triton, its queues, its processes and the way to
the client. So served over bare is what these leave of the throughput.
Prints one JSON object: the records and the window, for the arithmetic that the served runs get.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.local_stages import LocalStages
from benchmarks.serving.asking import Heard
from benchmarks.serving.load import Bounds, Sender, closed_loop
from benchmarks.serving.records import Run
from benchmarks.serving.scenario import Asked, Scenario
from songstarter.errors import TakeFailed
from songstarter.faces.face import Face
from songstarter.faces.visits import Visit


class Bare:
    """An `Ask` of a face in this process, each request on a thread of its own as in the served one."""

    def __init__(self, face: Face, threads: ThreadPoolExecutor) -> None:
        self._face = face
        self._threads = threads

    async def __call__(self, asked: Asked) -> Heard:
        values = {"prompt": asked.prompt, **asked.fields}
        files = await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, values)
        if files != asked.takes:
            raise TakeFailed(f"{files} variations came, {asked.takes} were asked for")
        return Heard(asked.audio_seconds)

    def _answer(self, values: dict[str, Any]) -> int:
        visit = Visit("bare")
        with visit.under_way():
            [answer] = self._face.answer(values, visit)
        return len(answer["output"])


def measure(repository: Path, scenario: Scenario, concurrency: int, bounds: Bounds) -> Run:
    """One closed loop."""
    with LocalStages.as_served(repository) as stages, ThreadPoolExecutor(concurrency) as threads:
        bare = Bare(Face(repository, stages), threads)
        return asyncio.run(closed_loop(Sender(bare, scenario.requests()), concurrency, bounds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.bare", description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--scenario", required=True)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--warmup", type=int, default=1)
    parsed = parser.parse_args()
    bounds = Bounds(parsed.seconds, parsed.requests, parsed.warmup)
    run = measure(parsed.repository, Scenario.read(parsed.scenario), parsed.concurrency, bounds)
    records = [asdict(record) for record in run.records]
    print(json.dumps({"opened": run.opened, "closed": run.closed, "records": records}))


if __name__ == "__main__":
    main()
