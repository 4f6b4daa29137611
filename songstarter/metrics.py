"""Every metric of the service, as data; they appear on Triton's own metrics endpoint, beside Triton's own.

What operators ask most, as PromQL over these:

- seconds of audio made per second, how many times real time the service is:
  ``sum(rate(songstarter_audio_seconds_total[5m]))``
- batch occupancy, the share of the slots that play:
  ``sum(rate(songstarter_slot_seconds_total[5m])) / sum(songstarter_slots)``
- takes waiting for each slot, what to scale by: ``sum(songstarter_takes_waiting) / sum(songstarter_slots)``
- tokens sampled by one step: ``rate(songstarter_tokens_total[5m]) / rate(songstarter_steps_total[5m])``;
  divided by the codebooks (8 in stereo, 4 in mono), that is the songs that one step moves
- the share of the KV memory's positions that need not be computed: ``rate(songstarter_kept_positions_total[5m]) /
  (rate(songstarter_kept_positions_total[5m]) + rate(songstarter_filled_positions_total[5m]))``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from songstarter.outcomes import UNDONE

Kind = Literal["COUNTER", "GAUGE", "HISTOGRAM"]

STEPS_PER_OBSERVATION = 10  # carrying over an observation costs 0.05 ms, and a step may take no more than a few


@dataclass(frozen=True)
class Family:
    """A metric: its name, what it means to people, and the label values or buckets it comes with."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()  # the values of the label of that name: all there will ever be
    buckets: tuple[float, ...] = ()  # upper bounds, in the metric's unit


@dataclass(frozen=True)
class Series:
    """A family with its labels' values."""

    family: Family
    values: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        return dict(zip(self.family.labels, self.values, strict=True))


@dataclass(frozen=True)
class Readings:
    """How things stand: every counter and gauge, and what histograms have to hear since they were last read."""

    values: Mapping[Series, float]
    observed: Mapping[Family, Sequence[float]]


def by_outcome(family: Family, counts: Mapping[str, float]) -> dict[Series, float]:
    """A family's series from its counts by outcome; what was not counted is zero."""
    return {Series(family, (outcome,)): counts.get(outcome, 0) for outcome in family.outcomes}


# -- the decoder's ------------------------------------------------------------------------------------------------

SLOTS = Family("songstarter_slots", "GAUGE", "Takes that can play at once.")
SLOTS_IN_USE = Family("songstarter_slots_in_use", "GAUGE", "Takes that play, or are being filled in order to play.")
SLOT_SECONDS = Family(
    "songstarter_slot_seconds_total", "COUNTER", "Time that takes held slots: two slots for a second are two seconds."
)
TAKES_WAITING = Family("songstarter_takes_waiting", "GAUGE", "Takes that wait for a slot.")
KV_MEMORY = Family("songstarter_kv_memory_bytes", "GAUGE", "Memory set aside for the keys and values of all slots.")
INFO = Family(
    "songstarter_info", "GAUGE", "Always 1; the labels say what runs.", ("version", "checkpoint", "precision", "device")
)
STEPS = Family("songstarter_steps_total", "COUNTER", "Decode steps; each moves every playing take by one column.")
TOKENS = Family("songstarter_tokens_total", "COUNTER", "Tokens sampled: one per codebook, playing take and step.")
KEPT_POSITIONS = Family(
    "songstarter_kept_positions_total",
    "COUNTER",
    "Positions of the KV memory that were copied instead of computed: from an earlier take, or between variations.",
)
FILLED_POSITIONS = Family(
    "songstarter_filled_positions_total",
    "COUNTER",
    "Positions of the KV memory that were computed before a take's first step.",
)
TAKES = Family(
    "songstarter_takes_total",
    "COUNTER",
    "Takes by how they ended; unavailable: there was no room to wait in, or the server stopped.",
    ("outcome",),
    outcomes=("finished", *UNDONE),
)
STEP_SECONDS = Family(
    "songstarter_step_seconds",
    "HISTOGRAM",
    f"Time of one decode step with guidance and sampling; one step in {STEPS_PER_OBSERVATION} is observed.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
)
FILL_SECONDS = Family(
    "songstarter_fill_seconds",
    "HISTOGRAM",
    "Time from a take's admission to a slot until it plays: its prefill, a piece with each step of the others.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
DECODER_FAMILIES = (
    SLOTS,
    SLOTS_IN_USE,
    SLOT_SECONDS,
    TAKES_WAITING,
    KV_MEMORY,
    INFO,
    STEPS,
    TOKENS,
    KEPT_POSITIONS,
    FILLED_POSITIONS,
    TAKES,
    STEP_SECONDS,
    FILL_SECONDS,
)

# -- the public model's -------------------------------------------------------------------------------------------

WAITS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)

CANARY = "canary"
REQUESTS_IN_FLIGHT = Family("songstarter_requests_in_flight", "GAUGE", "Requests that arrived and have no answer yet.")
REQUESTS = Family(
    "songstarter_requests_total",
    "COUNTER",
    "Requests by how they ended; those by which a supervisor or a probe sees that the model lives are canaries.",
    ("outcome",),
    outcomes=("answered", *UNDONE, CANARY),
)
AUDIO_SECONDS = Family(
    "songstarter_audio_seconds_total", "COUNTER", "Seconds of audio in answers, every variation and opening counted."
)
REQUEST_SECONDS = Family(
    "songstarter_request_seconds",
    "HISTOGRAM",
    "Time from a request's arrival to its answer, of those that were answered with audio.",
    buckets=WAITS,
)
FIRST_AUDIO_SECONDS = Family(
    "songstarter_first_audio_seconds",
    "HISTOGRAM",
    "Time from a request's arrival until the first of its audio is rendered.",
    buckets=WAITS,
)
REQUEST_FAMILIES = (REQUESTS_IN_FLIGHT, REQUESTS, AUDIO_SECONDS, REQUEST_SECONDS, FIRST_AUDIO_SECONDS)

FAMILIES = DECODER_FAMILIES + REQUEST_FAMILIES
