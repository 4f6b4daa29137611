"""The search for the rate that a server bears, against servers whose capacity is known because they are made up."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import pytest

from benchmarks.serving import knee
from benchmarks.serving.figures import Level, level
from benchmarks.serving.findings import Findings
from benchmarks.serving.load import Bounds
from benchmarks.serving.plan import Plan
from benchmarks.serving.progress import Progress
from benchmarks.serving.records import Record, Run
from benchmarks.serving.run import Bench, Watch, Window
from benchmarks.serving.scenario import Scenario
from benchmarks.serving.triton import TritonStatistics
from songstarter_client.address import parse_address

SEEDS = 9
ROUNDS = 20  # of every place of a closed loop


@dataclass(frozen=True)
class Server:
    """So many songs at once, the others in a queue; each takes ``alone`` seconds and ``more`` for every neighbour."""

    slots: int
    alone: float
    more: float = 0.0

    def seconds(self, songs: int) -> float:
        return self.alone + self.more * (songs - 1)

    @property
    def capacity(self) -> float:
        return self.slots / self.seconds(self.slots)

    def hold(self, concurrency: int) -> Run:
        """A closed loop: all begin together and so end together, or wait their turn among the others."""
        playing = min(concurrency, self.slots)
        period = self.seconds(playing) * concurrency / playing
        begun = [period * turn for turn in range(ROUNDS) for _ in range(concurrency)]
        return Run([answered(began, began + period) for began in begun], 0.0, ROUNDS * period)

    def let_come(self, arrivals: Iterable[float], window: Window) -> Run:
        """An open loop: from one arrival or end to the next, every song that plays moves on by the same share."""
        now, coming, waiting = 0.0, list(arrivals)[::-1], list[float]()
        playing: list[tuple[float, float]] = []  # how far it is, when it came
        records = []
        while coming or playing:
            pace = 1 / self.seconds(len(playing)) if playing else 0.0
            ends = now + (1 - max(playing)[0]) / pace if playing else math.inf
            comes = coming[-1] if coming else math.inf
            playing = [(done + (min(ends, comes) - now) * pace, came) for done, came in playing]
            now = min(ends, comes)
            if comes < ends:
                waiting.append(coming.pop())
            records += [answered(came, now) for done, came in playing if done > 1 - 1e-9]
            playing = [one for one in playing if one[0] <= 1 - 1e-9]
            while waiting and len(playing) < self.slots:
                playing.append((0.0, waiting.pop(0)))
        return Run(records, *window)


def answered(due: float, over: float) -> Record:
    return Record(0, due, due, None, over, 8.0, None)


class Simulated(Bench):
    """A bench whose loads take no time."""

    def __init__(self, server: Server, plan: Plan) -> None:
        statistics = TritonStatistics(parse_address("nowhere", "http"))
        super().__init__(plan, "nowhere", statistics, Findings(), Watch(Progress(io.StringIO()), lambda: None))
        self.server = server

    async def hold(self, concurrency: int, bounds: Bounds) -> Run:
        return self.server.hold(concurrency)

    async def let_come(self, rate: float, arrivals: Iterable[float], window: Window) -> Run:
        return self.server.let_come(arrivals, window)

    def knee(self) -> float:
        asyncio.run(self.find_knee())
        return knee.highest_held(self._findings.levels, self._plan.latency_limit) or 0.0

    @property
    def loads(self) -> list[tuple[str, float]]:
        """In the order in which they were tried."""
        return list(self._findings.runs)


def plan(seed: int = 0, latency_limit: float | None = None) -> Plan:
    scenario = Scenario(prompts=("a",))
    return Plan(scenario, "default", Bounds(20.0), find_knee=True, seed=seed, latency_limit=latency_limit)


SERVERS = {
    "one song after the other": Server(1, 4.0),
    "sixteen that do not mind each other": Server(16, 8.0),
    "sixteen that share a small machine": Server(16, 5.8, 1.04),
    "sixteen short ones that share": Server(16, 0.26, 0.09),
    "sixty-four on a big one": Server(64, 1.06, 0.0435),
}


@pytest.mark.parametrize("name", SERVERS)
def test_the_knee_is_near_what_the_server_can_do(name: str) -> None:
    server = SERVERS[name]
    found = [Simulated(server, plan(seed)).knee() / server.capacity for seed in range(SEEDS)]
    assert 0.6 <= median(found) <= 1.1
    assert max(found) <= 1.25


@pytest.mark.parametrize("name", SERVERS)
def test_a_generous_limit_does_not_pass_an_overload_for_a_rate_that_is_held(name: str) -> None:
    server = SERVERS[name]
    found = [Simulated(server, plan(seed, latency_limit=1e6)).knee() / server.capacity for seed in range(SEEDS)]
    assert 0.6 <= median(found) <= 1.15


def test_the_search_begins_with_closed_loops_and_well_below_what_they_reached() -> None:
    bench = Simulated(Server(16, 8.0), plan())
    bench.knee()
    assert bench.loads[:3] == [("closed", 1), ("closed", 16), ("open", 1.0)]


def test_a_slow_server_is_asked_for_no_more_than_it_can_do_from_the_first_rate_on() -> None:
    bench = Simulated(Server(1, 60.0), plan())
    assert 0 < bench.knee() <= 1.1 / 60
    rates = [rate for loop, rate in bench.loads if loop == "open"]
    assert rates[0] == pytest.approx(0.5 / 60)
    assert max(rates) <= 1 / 60


# -- one rate -------------------------------------------------------------------------------------------------


def opened(rate: float, latencies: list[float]) -> Level:
    """Evenly spaced arrivals from long before the window of as many seconds as it takes those given to come."""
    lead = 60
    every = [latencies[0]] * lead + latencies
    records = [answered((number - lead) / rate, (number - lead) / rate + taken) for number, taken in enumerate(every)]
    return level("open", rate, [Run(records, 0.0, len(latencies) / rate)])


ONE_BY_ONE = level("closed", 1, [Server(1, 1.0).hold(1)])


def test_a_queue_that_grows_is_not_held_however_lenient_the_limit() -> None:
    growing = opened(2.0, [1.0 + 0.1 * number for number in range(40)])
    assert growing.latency is not None
    assert (growing.latency.p95 or 0.0) < 2 * growing.latency.p50
    assert knee.complaint(growing, 100.0) == "p50 rose from 1.65 to 4.25 s"
    assert knee.highest_held([growing], 100.0) is None
    assert knee.highest_held([growing], None) is None  # of which the lowest rate's own median knew nothing


def test_requests_left_over_at_the_end_are_more_than_chance_allows() -> None:
    # The first thirds are as fast as the last: those between are still under way when the window closes.
    found = opened(1.0, [1.0] * 13 + [40.0] * 14 + [1.0] * 13)
    assert knee.complaint(found, 100.0) == "of 40 that came, 14 were left over"


def test_steady_latency_within_the_limit_is_held() -> None:
    assert knee.held(opened(2.0, [1.0, 3.0] * 20), 3.0)
    assert knee.held(opened(2.0, [1.0, 3.0] * 20), 2.9) is False


def test_the_limit_is_that_of_songs_one_by_one_and_not_of_an_overload() -> None:
    overloaded = opened(2.0, [10.0] * 40)
    assert knee.highest_held([overloaded], None) == 2.0  # nothing tells
    assert knee.latency_limit([ONE_BY_ONE, overloaded], None) == pytest.approx(4.0)
    assert knee.highest_held([ONE_BY_ONE, overloaded], None) is None
    assert knee.latency_limit([ONE_BY_ONE, overloaded], 12.0) == 12.0


# -- which rates ----------------------------------------------------------------------------------------------


def tried(first: float, *, bears: float) -> list[float]:
    verdicts: dict[float, bool | None] = {}
    while (rate := knee.next_rate(first, verdicts)) is not None:
        verdicts[rate] = rate <= bears
    return list(verdicts)


def test_a_rate_that_is_held_is_doubled_and_the_distance_to_the_next_halved() -> None:
    assert tried(1.0, bears=5.1) == [1.0, 2.0, 4.0, 8.0, 6.0, 5.0, 5.5]


def test_a_first_rate_that_is_not_held_is_halved() -> None:
    assert tried(8.0, bears=1.6) == [8.0, 4.0, 2.0, 1.0, 1.5, 1.75, 1.625]


def test_the_search_ends_where_every_rate_is_held_or_none() -> None:
    assert len(tried(1.0, bears=math.inf)) == 1 + knee.MOST_DOUBLED
    assert len(tried(1.0, bears=0.0)) == 1 + knee.MOST_HALVED


def test_the_search_ends_where_too_few_requests_come_to_say_anything() -> None:
    assert knee.next_rate(1.0, {1.0: None}) is None


def test_a_rate_is_held_until_many_requests_came_and_many_songs_could_be_made() -> None:
    assert knee.seconds_to_hold(0.1, ONE_BY_ONE) == 600
    assert knee.seconds_to_hold(100.0, ONE_BY_ONE) == pytest.approx(20.0)
