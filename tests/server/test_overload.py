"""Ten times more than the service can do: who is accepted is served in time, who is not hears so at once."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc
from asking import inputs
from test_full import bound
from tritonclient.utils import InferenceServerException

from songstarter.contract import PUBLIC_MODEL
from songstarter.server.launch import Ports
from songstarter.server.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]

SLOTS = 4
HELD = 12  # requests under way: four play, eight wait
SONG = {"prompt": "drone", "duration": 8.0, "num_outputs": 1, "seed": 1}
SECONDS = 60
TIMES = 10  # the load, as a multiple of what can be done
URGENT_EVERY = 10  # one request in so many comes with priority 1
PATIENCE = 60.0  # seconds after which a request would count as hanging


@pytest.fixture(scope="module")
def server(embedded_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = shutil.copytree(embedded_repository, tmp_path_factory.mktemp("small") / "repository")
    bound(repository / "decoder" / "config.pbtxt", {"slots": SLOTS, "max_waiting": HELD})
    bound(repository / "songstarter" / "config.pbtxt", {"max_requests": HELD})
    with Server(repository, Ports.free(), tmp_path_factory.mktemp("run")) as server:
        yield server


@dataclass(frozen=True)
class Told:
    """What became of a request: None for a song, or the status and the sentence it got instead."""

    urgent: bool
    seconds: float
    refusal: str | None


@dataclass
class Caller:
    """Asks for the same song again and again, so that every answer must be the same."""

    client: triton_grpc.InferenceServerClient
    answers: set[bytes]

    async def ask(self, urgent: bool = False) -> Told:
        began = time.monotonic()
        parameters = {"songstarter_priority": 1 if urgent else 3}
        try:
            result = await self.client.infer(PUBLIC_MODEL, inputs(SONG), parameters=parameters, client_timeout=PATIENCE)
        except InferenceServerException as error:
            return Told(urgent, time.monotonic() - began, f"{error.status()} {error.message()}")
        self.answers.add(result.as_numpy("output")[0])
        return Told(urgent, time.monotonic() - began, None)

    async def one_by_one(self, number: int) -> list[Told]:
        return [await self.ask() for _ in range(number)]

    async def most_per_second(self, seconds: float) -> float:
        """Songs a second while every place is taken, as it is in the rush, and nobody is refused."""
        began, done = time.monotonic(), count()

        async def place() -> None:
            while time.monotonic() - began < seconds:
                if (await self.ask()).refusal is None:
                    next(done)

        await asyncio.gather(*(place() for _ in range(HELD)))
        return next(done) / (time.monotonic() - began)

    async def rush(self, rate: float, seconds: float) -> list[Told]:
        """So many requests a second, whatever becomes of them."""
        began, asked = time.monotonic(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            asked.append(asyncio.create_task(self.ask(urgent=number % URGENT_EVERY == 0)))
        return await asyncio.gather(*asked)


@dataclass(frozen=True)
class Experiment:
    before: list[Told]
    rate: float
    rushed: list[Told]
    after: list[Told]
    answers: set[bytes]


@pytest.fixture(scope="module")
def experiment(server: Server) -> Experiment:
    async def make() -> Experiment:
        async with triton_grpc.InferenceServerClient(server.grpc_url) as client:
            caller = Caller(client, set())
            await caller.one_by_one(3)  # the first ones are slow
            before = await caller.one_by_one(20)
            rate = await caller.most_per_second(10)
            rushed = await caller.rush(TIMES * rate, SECONDS)
            after = await caller.one_by_one(20)
            return Experiment(before, rate, rushed, after, caller.answers)

    return asyncio.run(make())


def seconds_of(told: list[Told]) -> list[float]:
    return [one.seconds for one in told]


def figures(experiment: Experiment) -> dict[str, object]:
    """How it went, in counts, and seconds as median, 99th percentile and the longest."""
    groups = {
        "before": experiment.before,
        "after": experiment.after,
        "refused": [one for one in experiment.rushed if one.refusal],
        "usual": [one for one in experiment.rushed if not one.refusal and not one.urgent],
        "urgent": [one for one in experiment.rushed if not one.refusal and one.urgent],
    }
    seconds = {name: np.percentile(seconds_of(told), [50, 99, 100]).round(3).tolist() for name, told in groups.items()}
    return {"songs a second": experiment.rate, "counts": {name: len(told) for name, told in groups.items()}} | seconds


def test_everyone_is_answered_or_refused_and_the_answers_are_right(experiment: Experiment) -> None:
    refusals = {one.refusal for one in experiment.rushed if one.refusal}
    assert refusals == {f"StatusCode.UNAVAILABLE {HELD} requests are under way, which is the bound: try again later"}
    assert len(experiment.answers) == 1
    assert sum(one.refusal is None for one in experiment.rushed) > 0.7 * experiment.rate * SECONDS, figures(experiment)


def test_who_is_refused_hears_it_at_once(experiment: Experiment) -> None:
    refused = [one.seconds for one in experiment.rushed if one.refusal]
    assert median(refused) < 0.1, figures(experiment)
    # The songs keep every core busy: who is refused waits for a core five times over, caller's and Triton's included.
    assert np.percentile(refused, 99) < 1, figures(experiment)


def test_who_is_accepted_waits_for_their_share_of_the_queue_and_no_longer(experiment: Experiment) -> None:
    accepted = [one.seconds for one in experiment.rushed if not one.refusal and not one.urgent]
    unloaded = float(np.percentile(seconds_of(experiment.before), 99))
    # Who waits is passed by the urgent ones that come meanwhile, which are one in so many of those that come.
    share = HELD / experiment.rate * URGENT_EVERY / (URGENT_EVERY - 1)
    assert np.percentile(accepted, 99) < 2 * unloaded + share, figures(experiment)


def test_the_urgent_pass_those_who_wait(experiment: Experiment) -> None:
    urgent, usual = (
        [one.seconds for one in experiment.rushed if not one.refusal and one.urgent == wanted]
        for wanted in (True, False)
    )
    assert median(urgent) < 0.7 * median(usual), figures(experiment)


def test_afterwards_the_service_is_as_fast_as_before(experiment: Experiment) -> None:
    # The fastest of twenty against the fastest: what others do on the machine meanwhile slows some of both.
    before, after = (min(seconds_of(told)) for told in (experiment.before, experiment.after))
    assert after < 1.3 * before, figures(experiment)
