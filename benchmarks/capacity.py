"""Scaling on paper: what which hardware holds, what it costs, and what the autoscaler makes of a day.

    python -m benchmarks.capacity [--model NAME] [--demand REQUESTS_PER_HOUR] [--price HARDWARE=USD] [--docs docs]

Step times are those of decode benchmarks in benchmarks/results where there are any, and else predicted from bytes and
bandwidth. Prints the tables; the last line is the same as one JSON document. ``--docs`` writes a page and a picture.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.arguments import numbers, words
from benchmarks.autoscaler import CHART_VALUES, rule_of_chart
from benchmarks.capacity_day import SLOTS, START_SECONDS, Day, Fleet, fleets
from benchmarks.capacity_page import Page, day_in_short, day_table, in_words, rows_in_full
from benchmarks.capacity_picture import picture
from benchmarks.capacity_rows import Row, Wish, rows, too_many
from benchmarks.hardware import GPU_PRECISIONS, GPUS, MODELS, PRECISIONS
from benchmarks.step_time import LONGEST_TAKE, Predicted, StepTimes, measured_in

RESULTS = Path(__file__).parent / "results"
EFFICIENCY = 0.65  # of the bandwidth: gpt-fast reaches 69 % on an A100
OVERHEAD_MS = 0.3  # guidance, sampling and bookkeeping: an assumption
UTILISATION = 0.75


@dataclass(frozen=True)
class Plan:
    """What the tables and the day follow from."""

    model: str
    machines: Sequence[StepTimes]
    songs: Sequence[int]
    takes: Sequence[int]
    wish: Wish
    day: Day
    efficiency: float
    overhead_ms: float
    command: str

    @property
    def rows(self) -> list[Row]:
        return rows(self.machines, self.songs, self.takes, self.wish)


def main(arguments: Sequence[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else list(arguments)
    parsed = _parse(given)
    plan = _plan(parsed)
    found = fleets(plan.day)
    print(rows_in_full(plan.rows))
    print("\n".join(too_many(plan.machines, plan.songs)))
    print(f"A simulated day: {day_in_short(plan.day)}\n{day_table(found)}")
    if parsed.docs:
        _write(parsed.docs, _page(plan, found), picture(found, day_in_short(plan.day)))
    text = json.dumps(document(plan, found))
    if parsed.json:
        parsed.json.write_text(text + "\n")
    print(text)


def document(plan: Plan, found: Sequence[Fleet]) -> dict[str, Any]:
    return {
        "benchmark": "capacity",
        "command": plan.command,
        "assumed": {
            "efficiency": plan.efficiency,
            "overhead_ms": plan.overhead_ms,
            "usd_per_hour": {machine.hardware: machine.price for machine in plan.machines},
            "start_seconds": plan.day.start_seconds,
        },
        "wish": asdict(plan.wish),
        "rows": [asdict(row) for row in plan.rows],
        "day": {
            "hardware": plan.day.machine.hardware,
            "basis": plan.day.basis,
            "slots": plan.day.slots,
            "seed": plan.day.seed,
            "rule": asdict(plan.day.rule),
            "fleets": [fleet.summary() for fleet in found],
        },
    }


def _page(plan: Plan, found: Sequence[Fleet]) -> Page:
    take = [plan.wish.take_seconds]
    able = [one for one in plan.machines if one.most_songs]
    typical = [row for one in able for row in rows([one], [min(SLOTS, one.most_songs)], take, plan.wish)]
    precision = plan.machines[0].precision
    alike = [one for one in plan.machines if (one.model, one.precision) == (plan.model, precision)]
    return Page(
        command=plan.command,
        model=plan.model,
        machines=plan.machines,
        typical=typical,
        by_songs=rows(alike, plan.songs, take, plan.wish),
        day=plan.day,
        fleets=found,
        efficiency=plan.efficiency,
        overhead_ms=plan.overhead_ms,
    )


def _write(folder: Path, page: Page, svg: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "capacity.md").write_text(in_words(page))
    (folder / "capacity.svg").write_text(svg)


def _plan(parsed: argparse.Namespace) -> Plan:
    prices = dict(parsed.price)
    measured = measured_in(parsed.results, prices)
    machines = [*_without_measured(_predicted(parsed, prices), measured), *measured]
    wish = Wish(parsed.demand, parsed.variations, parsed.take, parsed.utilisation)
    machine = _machine(machines, parsed)
    slots = min(parsed.slots, machine.most_songs)
    day = Day(machine, wish, rule_of_chart(parsed.values), slots, parsed.start_seconds, parsed.seed)
    return Plan(
        model=parsed.model,
        machines=machines,
        songs=parsed.songs,
        takes=parsed.takes,
        wish=wish,
        day=day,
        efficiency=parsed.efficiency,
        overhead_ms=parsed.overhead_ms,
        command=shlex.join(["python", "-m", "benchmarks.capacity", *parsed.question, "--docs", "docs"]),
    )


def _predicted(parsed: argparse.Namespace, prices: dict[str, float]) -> list[StepTimes]:
    model = MODELS[parsed.model]
    return [
        Predicted(
            gpu=gpu,
            shape=model,
            precision=name,
            form=PRECISIONS[name],
            efficiency=parsed.efficiency,
            overhead_ms=parsed.overhead_ms,
            price=prices.get(gpu.name, gpu.price),
        )
        for name in parsed.precision
        for gpu in GPUS.values()
    ]


def _without_measured(predicted: Sequence[StepTimes], measured: Sequence[StepTimes]) -> list[StepTimes]:
    """What was measured needs no prediction."""
    known = {(one.hardware, one.model, one.precision) for one in measured}
    return [one for one in predicted if (one.hardware, one.model, one.precision) not in known]


def _machine(machines: Sequence[StepTimes], parsed: argparse.Namespace) -> StepTimes:
    """The day's: of its precisions the first."""
    able = [machine for machine in machines if machine.knows(parsed.take) and machine.most_songs]
    named = [machine for machine in able if machine.hardware == parsed.hardware]
    if not named:
        known = ", ".join(dict.fromkeys(machine.hardware for machine in able))
        raise SystemExit(
            f"no hardware is called {parsed.hardware!r} and has memory and times for songs of {parsed.take} s;"
            f" there are: {known}"
        )
    return next((machine for machine in named if machine.model == parsed.model), named[0])


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="stereo-melody-large")
    parser.add_argument("--precision", type=words, default=GPU_PRECISIONS, help=f"of {','.join(GPU_PRECISIONS)}")
    parser.add_argument("--songs", type=numbers, default=[1, 4, 8, 16, 32, 64], help="songs at once")
    parser.add_argument("--takes", type=numbers, default=[8, 30], help="lengths of takes in the table, seconds")
    parser.add_argument("--demand", type=float, default=1200, help="requests per hour at the busiest")
    parser.add_argument("--variations", type=int, default=4, help="songs in each request")
    parser.add_argument("--take", type=int, default=30, help="length of the requested songs, seconds")
    parser.add_argument("--utilisation", type=float, default=UTILISATION, help="how full slots may be at the busiest")
    parser.add_argument("--efficiency", type=float, default=EFFICIENCY, help="share of the bandwidth that is reached")
    parser.add_argument("--overhead-ms", type=float, default=OVERHEAD_MS, help="of a step, beside reading memory")
    parser.add_argument("--price", type=_price, action="append", default=[], help="HARDWARE=USD per hour; repeatable")
    parser.add_argument("--hardware", default="L40S", help="what the simulated day runs on")
    parser.add_argument("--slots", type=int, default=SLOTS, help="of each pod; no more than fit")
    parser.add_argument("--start-seconds", type=float, default=START_SECONDS, help="until a new pod serves")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of decode benchmarks' documents")
    parser.add_argument("--values", type=Path, default=CHART_VALUES, help="the Helm chart's values")
    parser.add_argument("--json", type=Path, help="write the document to this file too")
    parser.add_argument("--docs", type=Path, help="write capacity.md and capacity.svg to this folder")
    parsed = parser.parse_args(arguments)
    parsed.question = _without_files(arguments)
    _check(parser, parsed)
    return parsed


def _without_files(arguments: Sequence[str]) -> list[str]:
    """The question without where the answer goes."""
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--json")
    files.add_argument("--docs")
    return files.parse_known_args(arguments)[1]


def _check(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    if unknown := set(parsed.precision) - set(GPU_PRECISIONS):
        parser.error(f"no GPU plays {', '.join(sorted(unknown))}; there are {', '.join(GPU_PRECISIONS)}")
    positive = ("demand", "variations", "take", "utilisation", "efficiency", "slots")
    if parsed.take > LONGEST_TAKE:
        parser.error(f"take is {parsed.take} s; the planner knows one window, at most {LONGEST_TAKE} s")
    if wrong := [name for name in positive if getattr(parsed, name) <= 0]:
        parser.error(f"{wrong[0]} is {getattr(parsed, wrong[0])}, and has to be more than 0")


def _price(text: str) -> tuple[str, float]:
    name, _, usd = text.partition("=")
    try:
        return name, float(usd)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HARDWARE=USD, as in L4=0.70") from None


if __name__ == "__main__":
    main()
