"""``songstarter bench``: the arguments, and the order in which things are said."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from benchmarks.serving.files import Files
    from benchmarks.serving.findings import Findings
    from benchmarks.serving.plan import Plan
    from benchmarks.serving.prometheus import Exporter

DEFAULT_CONCURRENCY = (1, 2, 4, 8, 16)
KNEE = "knee"
MOST_IN_FLIGHT = 1024

Number = TypeVar("Number", int, float)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Load a running server and say what it holds: a table and, as the last line, one JSON document on stdout; "
        "progress on stderr. Without --concurrency and --rate it sweeps 1,2,4,8,16 in flight."
    )
    server = parser.add_argument_group("server").add_mutually_exclusive_group(required=True)
    server.add_argument("--url", metavar="HOST:PORT", help="its gRPC address, or as of `songstarter generate`")
    server.add_argument("--serve", type=Path, metavar="REPOSITORY", help="start one with this repository for the run")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="its key (or in SONGSTARTER_KEY_FILE or SONGSTARTER_KEY)"
    )
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="who signs its certificate (or in SONGSTARTER_CA_FILE)"
    )
    _configure_load(parser.add_argument_group("load"))
    _configure_reports(parser.add_argument_group("reports"))


def _configure_load(load: argparse._ArgumentGroup) -> None:
    load.add_argument("--scenario", default="default", metavar="NAME", help="default, mixed, short or a .toml file")
    load.add_argument("--stream", action="store_true", help="ask for streams: time to first audio, stalls in playing")
    load.add_argument("--concurrency", type=_each(_concurrency), metavar="N,N", help="closed loop: requests in flight")
    load.add_argument(
        "--rate", type=_rates, default=((), False), metavar="R,R", help="open loop: arrivals a second, or `knee`"
    )
    load.add_argument(
        "--latency-limit",
        type=_positive,
        metavar="S",
        help="what p95 may be at a rate that is held (default: 4 x that of one in flight)",
    )
    load.add_argument(
        "--seconds", type=_positive, default=20.0, metavar="S", help="of each load (default: %(default)g)"
    )
    load.add_argument("--requests", type=_whole, metavar="N", help="end a load after so many that count")
    load.add_argument("--warmup", type=_from_zero, default=1, metavar="N", help="requests of each place (default: 1)")
    load.add_argument(
        "--timeout", type=_positive, default=300.0, metavar="S", help="of a request (default: %(default)g)"
    )
    load.add_argument("--seed", type=_from_zero, default=0, metavar="N", help="of the arrivals (default: 0)")
    load.add_argument("--rounds", type=_whole, default=1, metavar="N", help="how often the sweep is run (default: 1)")
    load.add_argument(
        "--bare",
        type=Path,
        metavar="REPOSITORY",
        help="after each concurrency, do the same without Triton",
    )


def _configure_reports(reports: argparse._ArgumentGroup) -> None:
    reports.add_argument("--json", type=Path, metavar="FILE", help="write the document to this file too")
    reports.add_argument("--html", type=Path, metavar="FILE", help="write a report with plots, one file")
    reports.add_argument(
        "--statistics",
        metavar="HOST:PORT",
        help="Triton's HTTP port (default: that of --url, or the one before gRPC's; by TLS the same one)",
    )
    reports.add_argument("--metrics-port", type=_port, metavar="PORT", help="show the run to Prometheus at this port")
    reports.add_argument("--metrics-address", default="127.0.0.1", metavar="HOST", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Load, say what was found; 0 where it could be measured, whatever it was.

    However the run ends, by Ctrl-C or by a mistake, what it had measured is said and written before.

    Raises:
        SongstarterError: in one sentence, for the caller to show.
    """
    from contextlib import nullcontext

    from benchmarks.serving.files import Files, NotWritten
    from benchmarks.serving.findings import Findings
    from benchmarks.serving.progress import Progress
    from benchmarks.serving.report import prediction
    from benchmarks.serving.run import measure

    plan, findings, progress = _plan(args), Findings(), Progress()
    files = Files(args.json, args.html)

    def keep() -> None:
        try:
            files.write(plan, findings)
        except NotWritten as problem:  # the last try, at the end, may find the disk mended
            progress.say(str(problem))

    print(prediction(plan), flush=True)
    try:
        with _exporter(args) if args.metrics_port else nullcontext() as exporter:
            measure(plan, findings, progress, keep, exporter)
    finally:
        if findings.runs:
            _finish(plan, findings, files)
    return 0


def _finish(plan: Plan, findings: Findings, files: Files) -> None:
    from benchmarks.serving.files import text
    from benchmarks.serving.report import words

    try:
        print(words(plan, findings))
        print(text(plan, findings), flush=True)
    finally:  # also where nobody reads stdout any more
        files.write(plan, findings)


def _plan(args: argparse.Namespace) -> Plan:
    from benchmarks.serving.load import Bounds
    from benchmarks.serving.plan import Plan
    from benchmarks.serving.scenario import Scenario
    from songstarter.key import Key
    from songstarter_client import trust

    rates, find_knee = args.rate
    concurrency = args.concurrency or (() if rates or find_knee else DEFAULT_CONCURRENCY)
    return Plan(
        scenario=Scenario.read(args.scenario),
        scenario_name=args.scenario,
        bounds=Bounds(args.seconds, args.requests, args.warmup),
        url=args.url,
        serve=args.serve,
        key=None if args.serve else Key.given(args.key_file),
        ca_file=trust.chosen(args.ca_file),
        statistics=args.statistics,
        stream=args.stream,
        concurrency=concurrency,
        rates=rates,
        find_knee=find_knee,
        latency_limit=args.latency_limit,
        bare=args.bare,
        rounds=args.rounds,
        timeout=args.timeout,
        seed=args.seed,
    )


def _exporter(args: argparse.Namespace) -> Exporter:
    from benchmarks.serving.prometheus import Exporter

    return Exporter(args.metrics_port, args.metrics_address)


def _each(parse: Callable[[str], Number]) -> Callable[[str], tuple[Number, ...]]:
    def parsed(text: str) -> tuple[Number, ...]:
        return tuple(parse(word) for word in text.split(","))

    return parsed


def _rates(text: str) -> tuple[tuple[float, ...], bool]:
    """Rates, and whether the knee is searched for."""
    words = text.split(",")
    return tuple(_positive(word) for word in words if word != KNEE), KNEE in words


def _bounded(text: str, kind: Callable[[str], Number], least: float, most: float) -> Number:
    try:
        number = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number") from None
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"found {text}, allowed is {least:g} to {most:g}")
    return number


def _positive(text: str) -> float:
    return _bounded(text, float, math.nextafter(0, 1), 1e6)


def _whole(text: str) -> int:
    return _bounded(text, int, 1, 1e6)


def _from_zero(text: str) -> int:
    return _bounded(text, int, 0, 1e6)


def _concurrency(text: str) -> int:
    return _bounded(text, int, 1, MOST_IN_FLIGHT)


def _port(text: str) -> int:
    return _bounded(text, int, 1, 65535)
