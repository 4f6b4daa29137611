"""A run's words: what it will do, the tables, the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from benchmarks import machine
from benchmarks.columns import aligned
from benchmarks.serving import knee
from benchmarks.serving.figures import PERCENTILES, Level, Spread
from benchmarks.serving.findings import Findings
from benchmarks.serving.knee import LEAST_REQUESTS, complaint, held, highest_held, latency_limit
from benchmarks.serving.plan import Plan
from benchmarks.serving.records import Record, Run

PACKAGES = ("numpy", "tritonclient", "nvidia-pytriton", "onnxruntime")
COMPARED = (
    "served over bare: seconds of audio a second through Triton over those of the same work in one process without it "
    "(texts and audio encoded, takes decoded, songs rendered), in turns on the same machine"
)
FEW = "'-' for a percentile: too few requests for it; " + ", ".join(
    f"p{share} takes {least}" for share, least in PERCENTILES.items() if least > 1
)
DURATION = (
    "latency over duration: a request's latency over the seconds of one of its variations, the median; below 1 a song "
    "is there before it could have been played"
)
DEFINITIONS = {
    "latency_over_duration": DURATION,
    "stages": "Triton's statistics of all `sent` requests, those that warmed up included; every other figure is of the "
    "`requests` that began in the window, and rates of what lay in it",
}
INCOMPLETE = "Not complete: this is what was measured until now, or until the run ended early."
CAVEAT = "Whatever else runs on the machine shows in every figure; the load averages say how much there was."

Row = Sequence[str]


def prediction(plan: Plan) -> str:
    """What will be sent, how long it takes, and between which bounds the throughput must lie."""
    cards = plan.scenario.first()
    audio, takes = mean(card.audio_seconds for card in cards), mean(card.takes for card in cards)
    shares = {
        "follow a melody": sum("continuation" not in card.fields and "input_audio" in card.fields for card in cards),
        "continue an opening": sum("continuation" in card.fields for card in cards),
    }
    kinds = ", ".join(f"{number} {kind}" for kind, number in shares.items())
    levels = (len(plan.concurrency) * plan.rounds, len(plan.rates))
    knee_words = (
        f" and the knee ({knee.ALONE} and {knee.FILLED} in flight first; each of its rates until "
        f"{knee.KNEE_REQUESTS} requests are due and {knee.KNEE_SONGS} songs could have been made one by one)"
    )
    lines = [
        f"scenario {plan.scenario.name}: {audio:.3g} s of audio and {takes:.3g} takes a request on average; "
        f"of {len(cards)}, {kinds}",
        f"{levels[0]} loads in flight and {levels[1]} rates{knee_words if plan.find_knee else ''}, "
        f"{plan.bounds.seconds:g} s each beside warming up and waiting for the last",
        "predicted: with n in flight, between 1 and n times the throughput of one (no batching, perfect batching)",
    ]
    return "\n".join(lines)


def table(levels: Sequence[Level]) -> str:
    """One line for each load; latencies in seconds, from when a request was due."""
    head = ["load", "requests", "failed", "req/s", "audio_s/s", "of_perfect", "latency_over_duration"]
    head += ["p50_s", "p90_s", "p95_s", "p99_s", "first_audio_p50_s"]
    base = next((found for found in levels if found.loop == "closed"), None)
    return aligned([head, *(_row(found, base) for found in levels)])


def _row(found: Level, base: Level | None) -> Row:
    latency = found.latency
    percentiles = (latency.p50, latency.p90, latency.p95, latency.p99) if latency else (None,) * 4
    figures = (
        found.requests_per_second,
        found.audio_seconds_per_second,
        of_perfect(found, base),
        found.latency_over_duration,
        *percentiles,
        found.first_audio.p50 if found.first_audio else None,
    )
    return [found.name, str(found.requests), str(sum(found.errors.values())), *map(_word, figures)]


def of_perfect(found: Level, base: Level | None) -> float | None:
    """Throughput over what perfect batching would make of the lowest concurrency's; None for an open loop."""
    if base is None or found.loop != "closed" or not base.audio_seconds_per_second:
        return None
    return found.audio_seconds_per_second / base.audio_seconds_per_second * base.load / found.load


def stage_table(found: Level) -> str:
    """Triton's own figures for one load."""
    rows = [["model", "requests", "failed", "runs", "mean batch", "queue ms", "run ms", "busy"]]
    for stage in found.stages:
        figures = (stage.mean_batch, stage.queue_ms, stage.compute_ms)
        counts = map(str, (stage.requests, stage.failed, stage.executions))
        rows.append([stage.model, *counts, *map(_word, figures), f"{stage.busy_share:.0%}"])
    return aligned(rows)


def bare_lines(findings: Findings) -> list[str]:
    """Served beside bare, one line for each concurrency."""
    lines = []
    for concurrency in sorted(findings.bare):
        served = findings.level(("closed", concurrency)).audio_seconds_per_second
        bare = findings.bare_level(concurrency).audio_seconds_per_second
        lines.append(
            f"{concurrency} in flight: {served:.1f} s of audio a second through Triton, {bare:.1f} bare, "
            f"ratio {findings.ratio(concurrency):.2f}"
        )
    return [COMPARED, *lines] if lines else []


def words(plan: Plan, findings: Findings) -> str:
    """Everything that was measured, for people."""
    levels = findings.levels
    parts = [] if findings.complete else [INCOMPLETE]
    parts += ["measured:", table(levels)]
    parts += [line for found in levels if (line := stream_line(found))]
    parts += [f"errors at {found.name}: {errors}" for found in levels if (errors := _counts(found.errors))]
    if levels and (busiest := _busiest(levels)).stages:
        parts += [f"Triton's statistics at {busiest.name}, warming up included:", stage_table(busiest)]
    parts += bare_lines(findings)
    parts += measured_words(plan, levels)
    if findings.statistics_missing:
        parts.append(f"queue times and batch sizes unknown: {findings.statistics_missing}")
    return "\n".join([*parts, CAVEAT])


def measured_words(plan: Plan, levels: Sequence[Level]) -> list[str]:
    """What the table's columns mean, what its rates say, and where Triton's statistics may not belong to it."""
    doubts = [f"at {found.name} {found.stages_doubt}" for found in levels if found.stages_doubt]
    return [DURATION, *few_words(levels), *verdict(levels, plan.latency_limit), *doubts]


def few_words(levels: Sequence[Level]) -> list[str]:
    """What a missing percentile means, where one is missing."""
    return [FEW] if any(found.latency and found.latency.p99 is None for found in levels) else []


def verdict(levels: Sequence[Level], wished: float | None) -> list[str]:
    """Which rate was held, why others were not, and of which nothing can be said."""
    rates = [found for found in levels if found.loop == "open"]
    few = [found for found in rates if found.requests < LEAST_REQUESTS]
    lines = [f"too few requests to say whether {one.name} was held: {one.requests} of {LEAST_REQUESTS}" for one in few]
    if len(few) == len(rates):
        return lines
    rate, limit = highest_held(levels, wished), latency_limit(levels, wished)
    reasons = [f"{one.name} was not held: {complaint(one, limit)}" for one in rates if held(one, limit) is False]
    return [f"the highest rate that was held: {rate:.3g}/s" if rate else "no rate was held", *reasons, *lines]


def document(plan: Plan, findings: Findings) -> dict[str, Any]:
    """The same for machines; times in seconds where no unit is named."""
    levels = findings.levels
    limit = latency_limit(levels, plan.latency_limit)
    return {
        "benchmark": "serving",
        "complete": findings.complete,
        "definitions": DEFINITIONS,
        "machine": machine.facts(PACKAGES),
        "load_average": findings.load_average,
        "server": findings.server,
        "scenario": asdict(plan.scenario),
        "bounds": asdict(plan.bounds),
        "rounds": plan.rounds,
        "streamed": plan.stream,
        "levels": [_level(found, findings) | _holding(found, limit) for found in levels],
        "latency_limit": limit if any(found.loop == "open" for found in levels) else None,
        "knee_per_second": highest_held(levels, plan.latency_limit),
        "bare": {
            "compared": COMPARED,
            "levels": [asdict(findings.bare_level(concurrency)) for concurrency in sorted(findings.bare)],
            "ratios": {str(concurrency): findings.ratio(concurrency) for concurrency in sorted(findings.bare)},
        },
        "statistics_missing": findings.statistics_missing,
    }


def stream_line(found: Level) -> str | None:
    """What a listener would notice; None where answers come in one piece."""
    if found.first_audio is None or found.stalled_share is None:
        return None
    first = found.first_audio
    percentiles = " / ".join(
        "-" if value is None else f"{value:.3f}" for value in (first.p50, first.p90, first.p95, first.p99)
    )
    return (
        f"streams at {found.name}: first audio after {percentiles} s (p50 / p90 / p95 / p99), "
        f"{found.stalled_share:.0%} would have stalled while playing"
    )


def _level(found: Level, findings: Findings) -> dict[str, Any]:
    runs = findings.runs[found.loop, found.load]
    lowest = next((one for one in findings.levels if one.loop == "closed"), None)
    samples = [_sample(record, run) for run in runs for record in run.records]
    return {**asdict(found), "of_perfect": of_perfect(found, lowest), "samples": samples}


def _holding(found: Level, limit: float) -> dict[str, Any]:
    """Of an open loop, whether its rate was held, null where too few came; and why not."""
    if found.loop == "closed":
        return {}
    verdict = held(found, limit)
    return {"held": verdict, "not_held_because": complaint(found, limit) if verdict is False else None}


def _sample(record: Record, run: Run) -> dict[str, Any]:
    """A request with its times from the opening of its window."""
    first = {} if record.first_audio is None else {"first_audio": round(record.first_audio - run.opened, 4)}
    return {
        "scheduled": round(record.scheduled - run.opened, 4),
        "began": round(record.began - run.opened, 4),
        "ended": round(record.ended - run.opened, 4),
        "error": record.error,
        **first,
    }


def _busiest(levels: Sequence[Level]) -> Level:
    return max(levels, key=lambda found: found.audio_seconds_per_second)


def _counts(errors: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(errors.items()))


def _word(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def spread_words(found: Spread | None) -> str:
    return "-" if found is None else " / ".join(map(_word, (found.p50, found.p95, found.p99)))
