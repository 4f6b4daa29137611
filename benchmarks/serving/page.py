"""The report as one HTML file: no script, no font, no picture from anywhere else, so that it opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from benchmarks.serving import plots
from benchmarks.serving.figures import Level
from benchmarks.serving.findings import Findings
from benchmarks.serving.knee import highest_held
from benchmarks.serving.plan import Plan
from benchmarks.serving.report import CAVEAT, COMPARED, INCOMPLETE, measured_words, of_perfect, spread_words

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1f; background: #fff; max-width: 1340px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0; max-width: 60rem; } .note { color: #5b5b66; font-size: 13px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .2rem; } svg { width: 100%; height: auto; }
svg text { font: 11.5px system-ui, sans-serif; fill: #44444c; } svg .label { fill: #1b1b1f; font-weight: 600; }
.grid { stroke: #e3e3e8; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #e3e3e8; white-space: nowrap; }
th { border-bottom: 2px solid #b9b9c3; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.tile { border: 1px solid #e3e3e8; border-radius: 8px; padding: .6rem 1rem; }
.tile b { display: block; font-size: 1.4rem; }
"""

Cells = Sequence[object]


def page(plan: Plan, findings: Findings, facts: Mapping[str, Any]) -> str:
    """The whole document; ``facts`` are the machine's."""
    title = f"Songstarter under load: {plan.scenario.name}"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(when)}, {escape(findings.server)}, revision {escape(str(facts["revision"]))}</p>',
        *([] if findings.complete else [f"<p><b>{INCOMPLETE}</b></p>"]),
        _tiles(findings),
        _pictures(plan, findings),
        "<h2>Loads</h2>",
        _levels(findings.levels),
        *(f'<p class="note">{escape(line)}</p>' for line in measured_words(plan, findings.levels)),
        *_bare(findings),
        *(_stages(found) for found in findings.levels if found.stages),
        "<h2>What was asked, and where</h2>",
        _facts(plan, findings, facts),
        f'<p class="note">{CAVEAT}</p>',
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}{view}</head>\n<body>\n{body}\n</body>\n</html>\n'


def _tiles(findings: Findings) -> str:
    levels = findings.levels
    best = max(levels, key=lambda found: found.audio_seconds_per_second)
    failed = sum(sum(found.errors.values()) for found in levels)
    tiles = {
        f"s of audio per second, at {best.name}": f"{best.audio_seconds_per_second:.1f}",
        f"requests per second, at {best.name}": f"{best.requests_per_second:.2f}",
        "requests counted": str(sum(found.requests for found in levels)),
        "of them failed": str(failed),
    }
    if levels[0].latency:
        tiles = {f"s median latency, at {levels[0].name}": f"{levels[0].latency.p50:.2f}"} | tiles
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{value}</b>{escape(name)}</div>' for name, value in tiles.items())
        + "</div>"
    )


def _pictures(plan: Plan, findings: Findings) -> str:
    levels = findings.levels
    bare = {float(number): findings.bare_level(number).audio_seconds_per_second for number in findings.bare}
    pictures = {
        "Throughput against concurrency": plots.throughput(levels, bare),
        "Latency: share of requests answered within": plots.latency_cdf(levels, findings.runs),
        "Latency against the rate of arrivals": plots.latency_against_rate(
            levels, highest_held(levels, plan.latency_limit)
        ),
        "Time line: each request when it was over": plots.time_line(levels, findings.runs),
    }
    drawn = [
        f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"
        for caption, picture in pictures.items()
        if picture
    ]
    return f'<div class="plots">{"".join(drawn)}</div>'


def _levels(levels: Sequence[Level]) -> str:
    head = (
        *("load", "requests", "failed", "requests/s", "s of audio/s", "of perfect batching", "latency over duration"),
        *("latency p50, s", "p90, s", "p95, s", "p99, s"),
        *(["first audio p50 / p95 / p99, s", "stalled"] if any(found.first_audio for found in levels) else []),
    )
    base = next((found for found in levels if found.loop == "closed"), None)
    return _table(head, [_level(found, base) for found in levels])


def _level(found: Level, base: Level | None) -> Cells:
    perfect = of_perfect(found, base)
    latency = found.latency
    seconds = (latency.p50, latency.p90, latency.p95, latency.p99) if latency else (None,) * 4
    errors = ", ".join(f"{number} {kind}" for kind, number in sorted(found.errors.items())) or 0
    first = [spread_words(found.first_audio), f"{found.stalled_share or 0:.0%}"] if found.first_audio else []
    perfection = "-" if perfect is None else f"{perfect:.0%}"
    throughput = (found.requests_per_second, found.audio_seconds_per_second, perfection, found.latency_over_duration)
    return (found.name, found.requests, errors, *throughput, *seconds, *first)


def _bare(findings: Findings) -> list[str]:
    if not findings.bare:
        return []
    rows = [
        (
            number,
            findings.level(("closed", number)).audio_seconds_per_second,
            findings.bare_level(number).audio_seconds_per_second,
            f"{findings.ratio(number):.2f}",
        )
        for number in sorted(findings.bare)
    ]
    head = ("in flight", "s of audio/s through Triton", "s of audio/s, bare engine", "ratio")
    return ["<h2>Beside the bare engine</h2>", f"<p>{escape(COMPARED)}.</p>", _table(head, rows)]


def _stages(found: Level) -> str:
    head = ("model", "requests", "failed", "runs", "mean batch", "queue, ms", "run, ms", "busy", "runs by batch size")
    rows = [
        (
            *(stage.model, stage.requests, stage.failed, stage.executions, stage.mean_batch),
            *(stage.queue_ms, stage.compute_ms, f"{stage.busy_share:.0%}"),
            ", ".join(f"{size}: {number}" for size, number in stage.batches.items()),
        )
        for stage in found.stages
    ]
    return f"<h2>Triton's statistics at {escape(found.name)}, warming up included</h2>" + _table(head, rows)


def _facts(plan: Plan, findings: Findings, facts: Mapping[str, Any]) -> str:
    scenario = plan.scenario
    rows: dict[str, object] = {
        "window": f"{plan.bounds.seconds:g} s for each load, {plan.rounds} rounds",
        "durations, s (weight)": ", ".join(f"{value:g} ({weight:g})" for value, weight in scenario.durations.items()),
        "variations (weight)": ", ".join(f"{value} ({weight:g})" for value, weight in scenario.variations.items()),
        "with a melody": f"{scenario.melody_share:.0%}",
        "with an opening": f"{scenario.continuation_share:.0%}",
        "load average before and after": ", ".join(f"{value:.2f}" for value in findings.load_average),
        **{f"client's {name}": value for name, value in facts.items()},
    }
    return _table(("fact", ""), list(rows.items()))


def _table(head: Cells, rows: Sequence[Cells]) -> str:
    def cells(tag: str, row: Cells) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(_word(cell))}</{tag}>" for cell in row) + "</tr>"

    body = "".join(cells("td", row) for row in rows)
    return f'<div class="wide"><table><thead>{cells("th", head)}</thead><tbody>{body}</tbody></table></div>'


def _word(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
