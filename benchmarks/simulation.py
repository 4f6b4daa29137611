"""A day of requests over pods that come and go: what is waited for, refused and paid.

    arrivals -> a pod by chance -> its waiting takes -> its slots -> done
                (none: the door)   (bounded)           (all step together; the more play, the longer a step)

A request's takes go to one pod, as a Kubernetes Service sends it, and stay there: a new pod relieves only those who
come later. Between events nothing is computed: a pod's takes advance at one pace until their number changes.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from benchmarks.autoscaler import PERIOD, Autoscaler, Load, Rule

HOUR = 3600.0
DAY = 24 * HOUR
# Requests at each full hour as a share of the busiest: an assumed day with a silent night, a late morning, an evening.
SHARES = (
    *(0.12, 0.06, 0.01, 0.002, 0.002, 0.005, 0.04, 0.18, 0.38, 0.58, 0.70, 0.66),
    *(0.52, 0.48, 0.50, 0.54, 0.60, 0.70, 0.84, 0.96, 1.00, 0.88, 0.56, 0.28),
)


@dataclass(frozen=True)
class Pods:
    """What every pod is like."""

    step_seconds: Sequence[float]  # by takes playing: [0] none, [1] one, ... up to all slots
    steps: int  # of a take
    max_waiting: int  # takes
    start_seconds: float  # from the decision to the first take: image, models

    @property
    def slots(self) -> int:
        return len(self.step_seconds) - 1


@dataclass(frozen=True)
class Demand:
    peak: float  # requests per hour at the busiest
    variations: int
    patience: float  # seconds someone tries again while no pod serves at all


@dataclass
class Request:
    arrived: float
    unplayed: int  # takes without a slot yet
    unfinished: int
    waited: float | None = None  # until the last take had its slot


@dataclass(frozen=True)
class Moment:
    """What an observer sees."""

    time: float
    serving: int
    starting: int
    leaving: int
    waiting: int  # takes, those at the door too


@dataclass
class Outcome:
    """How a day went."""

    arrived: list[float] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)  # arrival, seconds until the last take had a slot
    moments: list[Moment] = field(default_factory=list)
    finished: int = 0
    refused: int = 0
    inside: int = 0  # at midnight still waiting or playing
    pod_seconds: float = 0

    def waited(self, share: float) -> float:
        """Seconds that this share of those who got their slots waited at most."""
        ordered = sorted(wait for _, wait in self.waits)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass(eq=False)
class Pod:
    """Slots with one pace: ``progress`` counts steps since the pod's beginning."""

    born: float
    serves_from: float
    progress: float = 0
    seen: float = 0  # when progress was last brought up to date
    leaving: bool = False
    playing: list[tuple[float, int, Request]] = field(default_factory=list)  # heap by the progress at which they end
    waiting: deque[Request] = field(default_factory=deque)  # once for each take

    def serves(self, now: float) -> bool:
        return now >= self.serves_from and not self.leaving


def arrivals(demand: Demand, seed: int, until: float = DAY) -> list[float]:
    """Poisson arrivals along the day's curve, by thinning."""
    random = Random(f"arrivals {seed}")
    times, now = [], 0.0
    while (now := now + random.expovariate(demand.peak / HOUR)) < until:
        if random.random() < share_at(now):
            times.append(now)
    return times


def share_at(time: float) -> float:
    """The day's curve, straight between full hours."""
    hour = time % DAY / HOUR
    left, part = int(hour), hour % 1
    return SHARES[left] * (1 - part) + SHARES[(left + 1) % 24] * part


def simulate(pods: Pods, demand: Demand, rule: Rule, *, seed: int, until: float = DAY) -> Outcome:
    """A day under a rule; ``least`` equal to ``most`` is a fixed fleet."""
    return Simulation(pods, demand, rule, seed).run(arrivals(demand, seed, until), until)


class Simulation:
    """Events in order of time, and what each does to the pods."""

    def __init__(self, pods: Pods, demand: Demand, rule: Rule, seed: int) -> None:
        self._kind = pods
        self._demand = demand
        self._autoscaler = Autoscaler(rule)
        self._random = Random(f"routing {seed}")
        self._number = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._now = 0.0
        self._door: deque[Request] = deque()
        self._arriving = False
        self._outcome = Outcome()
        self._pods = [Pod(0, 0) for _ in range(max(1, rule.least))]  # those of yesterday

    def run(self, times: Sequence[float], until: float) -> Outcome:
        for time in times:
            self._at(time, self._arrive)
        self._at(0, self._tick)
        while self._events and self._events[0][0] < until:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        for pod in self._pods:
            self._outcome.pod_seconds += until - pod.born
        self._outcome.inside = len(self._outcome.arrived) - self._outcome.finished - self._outcome.refused
        self._check_inside()
        return self._outcome

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._number), happen))

    def _check_inside(self) -> None:
        """Who is neither finished nor refused must be somewhere."""
        takes = [request for pod in self._pods for request in (*pod.waiting, *(one for *_, one in pod.playing))]
        found = len({id(request) for request in (*takes, *self._door)})
        if found != self._outcome.inside:
            raise RuntimeError(f"{self._outcome.inside} requests should be inside at the end, {found} are")

    # Requests

    def _arrive(self) -> None:
        self._arriving = True
        self._outcome.arrived.append(self._now)
        self._send(Request(self._now, self._demand.variations, self._demand.variations))

    def _send(self, request: Request) -> None:
        serving = [pod for pod in self._pods if pod.serves(self._now)]
        if not serving:
            self._door.append(request)
            return
        pod = self._random.choice(serving)
        if len(pod.waiting) + request.unplayed > self._kind.max_waiting:
            self._outcome.refused += 1
            return
        pod.waiting.extend([request] * request.unplayed)
        self._advance(pod)

    def _turn_away_the_impatient(self) -> None:
        while self._door and self._now - self._door[0].arrived > self._demand.patience:
            self._door.popleft()
            self._outcome.refused += 1

    # Pods

    def _advance(self, pod: Pod) -> None:
        """Bring a pod up to now: end takes, give their slots on, and look again when the next one ends."""
        if pod.playing:
            pod.progress += (self._now - pod.seen) / self._kind.step_seconds[len(pod.playing)]
        pod.seen = self._now
        while pod.playing and pod.playing[0][0] <= pod.progress + 1e-6:
            self._end_take(heapq.heappop(pod.playing)[2])
        while pod.waiting and len(pod.playing) < self._kind.slots:
            self._start_take(pod, pod.waiting.popleft())
        self._look_again(pod)

    def _look_again(self, pod: Pod) -> None:
        if pod.playing:
            steps = pod.playing[0][0] - pod.progress
            expected = (pod.playing[0][0], len(pod.playing))
            time = self._now + steps * self._kind.step_seconds[len(pod.playing)]
            self._at(time, lambda: self._advance_if(pod, expected))
        elif pod.leaving and pod in self._pods:
            self._remove(pod)

    def _advance_if(self, pod: Pod, expected: tuple[float, int]) -> None:
        """Unless the pod's pace has changed since, which has made a later event."""
        if pod.playing and expected == (pod.playing[0][0], len(pod.playing)):
            self._advance(pod)

    def _start_take(self, pod: Pod, request: Request) -> None:
        heapq.heappush(pod.playing, (pod.progress + self._kind.steps, next(self._number), request))
        request.unplayed -= 1
        if not request.unplayed:
            request.waited = self._now - request.arrived
            self._outcome.waits.append((request.arrived, request.waited))

    def _end_take(self, request: Request) -> None:
        request.unfinished -= 1
        self._outcome.finished += not request.unfinished

    def _remove(self, pod: Pod) -> None:
        self._pods.remove(pod)
        self._outcome.pod_seconds += self._now - pod.born

    # Scaling

    def _tick(self) -> None:
        self._turn_away_the_impatient()
        staying = [pod for pod in self._pods if not pod.leaving]
        load = self._load(staying)
        self._observe(load)
        self._arriving = False
        wanted = self._autoscaler.decide(self._now, load)
        for _ in range(wanted - len(staying)):
            self._start_pod()
        # Kubernetes ends the youngest first.
        for pod in sorted(staying, key=lambda pod: -pod.serves_from)[: max(0, len(staying) - wanted)]:
            self._let_go(pod)
        self._at(self._now + PERIOD, self._tick)

    def _load(self, staying: Sequence[Pod]) -> Load:
        serving = sum(pod.serves(self._now) for pod in staying)
        slots = self._kind.slots
        waiting = sum(len(pod.waiting) for pod in staying) / slots
        playing = sum(len(pod.playing) for pod in staying) / slots
        return Load(serving, len(staying) - serving, waiting, playing, self._arriving or bool(self._door))

    def _observe(self, load: Load) -> None:
        waiting = sum(len(pod.waiting) for pod in self._pods) + sum(request.unplayed for request in self._door)
        leaving = len(self._pods) - load.pods
        self._outcome.moments.append(Moment(self._now, load.serving, load.starting, leaving, waiting))

    def _start_pod(self) -> None:
        pod = Pod(self._now, self._now + self._kind.start_seconds)
        self._pods.append(pod)
        self._at(pod.serves_from, lambda: self._open(pod))

    def _open(self, pod: Pod) -> None:
        if not pod.serves(self._now):
            return
        pod.seen = self._now
        for request in [self._door.popleft() for _ in range(len(self._door))]:
            self._send(request)

    def _let_go(self, pod: Pod) -> None:
        """It gets no more requests, finishes those it has, and goes."""
        pod.leaving = True
        if not pod.playing:
            self._remove(pod)
