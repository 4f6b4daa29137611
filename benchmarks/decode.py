"""The decode engine beside transformers ``generate``, on the same weights, in one run, in alternation.

    python -m benchmarks.decode --size small --songs 1,4,16 --precision fp32,int8 --json FILE

Prints what the memory bus allows, then what was measured; the last line is the same as one JSON document.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.arguments import numbers, words
from benchmarks.exported import CACHE, exported, make_weights
from benchmarks.machine import Memory
from benchmarks.measurements import Measurements, samples
from benchmarks.ours import OurDecode
from benchmarks.peer import VARIANTS, PeerDecode
from benchmarks.quality import Quality, compare, make_run, played_logits, reference_logits
from benchmarks.report import Question, document, prediction, quality_lines, table
from benchmarks.roofline import Traffic, traffic_of
from benchmarks.shapes import SIZES, Size, contexts_along, last_context
from benchmarks.timing import Step
from export.checkpoints import Loaded
from songstarter.checkpoint import Checkpoint
from songstarter.stages.decoder import GRAPH
from songstarter.stages.kv_memory import ROWS_PER_SLOT

REFERENCE = "fp32"
# Beside keys and values a side needs memory for its weights and for what it computes with.
SPARE_BYTES = 2**30


@dataclass(frozen=True)
class Plan:
    """What was asked on the command line."""

    size: Size
    songs: Sequence[int]
    precisions: Sequence[str]
    takes: Sequence[int]
    steps: int
    rounds: int
    peers: Sequence[str]
    threads: int
    cache: Path


@dataclass(frozen=True)
class Graph:
    """A precision's exported decoder."""

    repository: Path
    checkpoint: Checkpoint
    traffic: Traffic


def main(arguments: Sequence[str] | None = None) -> None:
    parsed = _parse(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    text = json.dumps(run(_plan(parsed)))
    if parsed.json:
        parsed.json.write_text(text + "\n")
    print(text)


def run(plan: Plan) -> dict[str, Any]:
    """Predict, measure, print; the document."""
    loaded = make_weights(plan.size)
    graphs = {precision: _graph(loaded, plan, precision) for precision in plan.precisions}
    traffic = {precision: graph.traffic for precision, graph in graphs.items()}
    bandwidth = Memory(plan.threads).bandwidth()
    questions, skipped = _questions(plan, traffic)
    print(f"{plan.size.name}, {bandwidth / 1e9:.1f} GB/s with {plan.threads} threads; predicted:")
    print(prediction(questions, traffic, bandwidth), flush=True)
    measurements = Measurements()
    for number in range(plan.rounds):
        _note(f"round {number + 1} of {plan.rounds}")
        _measure(plan, loaded, graphs, questions, measurements)
    quality = _qualities(plan, loaded, graphs)
    cases = [
        measurements.case(question, traffic[question.precision], quality.get(question.precision))
        for question in questions
    ]
    speeds = [speed for found in measurements.ours.values() for one in found for speed in one.bandwidth.values()]
    slowest, fastest = min([bandwidth, *speeds]) / 1e9, max([bandwidth, *speeds]) / 1e9
    print(f"measured, with memory at {slowest:.1f} to {fastest:.1f} GB/s:\n{table(cases)}\n{quality_lines(quality)}")
    failed = [f"transformers {name} at {n} songs: {why}" for (n, name), why in measurements.not_running.items()]
    print("\n".join(skipped + failed))
    return document(
        cases,
        size=asdict(plan.size),
        machine=machine.facts(),
        bandwidth_gb_per_second={"before": bandwidth / 1e9, "slowest": slowest, "fastest": fastest},
        threads=plan.threads,
        steps=plan.steps,
        rounds=plan.rounds,
        quality={precision: asdict(found) for precision, found in quality.items()},
        samples=samples(measurements),
        peers_not_running=failed,
        skipped=skipped,
    )


def _questions(plan: Plan, traffic: dict[str, Traffic]) -> tuple[list[Question], list[str]]:
    """The cases this machine has the memory for, and words on the others."""
    free = machine.free_bytes()
    questions, skipped = [], []
    for songs in plan.songs:
        for precision in plan.precisions:
            for take in plan.takes:
                # The peer's keys and values are fp32, whatever ours are; the two sides take turns.
                needed = traffic[precision].weights + SPARE_BYTES + _fp32_memory(plan.size, songs, last_context(take))
                if needed <= free:
                    questions.append(Question(songs, precision, take))
                else:
                    skipped.append(
                        f"not measured: {songs} songs of {take} s in {precision} need {needed / 1e9:.0f} GB, "
                        f"{free / 1e9:.0f} GB are free"
                    )
    return questions, skipped


def _fp32_memory(size: Size, songs: int, context: int) -> int:
    values = 2 * size.layers * size.hidden
    return songs * ROWS_PER_SLOT * context * 4 * values


def _measure(
    plan: Plan, loaded: Loaded, graphs: dict[str, Graph], questions: list[Question], into: Measurements
) -> None:
    """One round: for each number of songs, every precision of ours and then every variant of the peer's."""
    for songs in plan.songs:
        takes = sorted({question.take_seconds for question in questions if question.songs == songs})
        for precision in sorted({question.precision for question in questions if question.songs == songs}):
            _measure_ours(plan, graphs[precision], songs, takes, into)
        for variant in into.promising(songs, takes[-1], list(plan.peers)) if takes else ():
            _measure_peer(plan, loaded, variant, songs, takes, into)


def _measure_ours(plan: Plan, graph: Graph, songs: int, takes: list[int], into: Measurements) -> None:
    steps, bandwidth = {}, {}
    memory = Memory(plan.threads)
    with OurDecode(graph.repository, graph.checkpoint, slots=songs, threads=plan.threads) as ours:
        for context in contexts_along(takes):
            steps[context] = ours.measure(songs, context, plan.steps)
            bandwidth[context] = memory.bandwidth()
    _note_steps(f"{songs} songs, ours in {graph.checkpoint.decoder.precision}", _seconds(steps))
    into.add_ours(songs, graph.checkpoint.decoder.precision, steps, bandwidth)


def _measure_peer(plan: Plan, loaded: Loaded, variant: str, songs: int, takes: list[int], into: Measurements) -> None:
    contexts = contexts_along(takes)
    capacity = {context: min(last for last in map(last_context, takes) if last >= context) for context in contexts}
    try:
        with PeerDecode(loaded, VARIANTS[variant], songs=songs, threads=plan.threads) as peer:
            seconds = {context: peer.measure(context, plan.steps, capacity=capacity[context]) for context in contexts}
        _note_steps(f"{songs} songs, transformers {variant}", seconds)
        into.add_peer(songs, variant, seconds)
    except Exception as error:  # whatever it cannot do on this machine is a finding, not our failure
        into.not_running[songs, variant] = f"{type(error).__name__}: {error}".splitlines()[0]


def _qualities(plan: Plan, loaded: Loaded, graphs: dict[str, Graph]) -> dict[str, Quality]:
    """The distance of every reduced precision from fp32."""
    reduced = [precision for precision in plan.precisions if precision != REFERENCE]
    if not reduced:
        return {}
    _note("quality")
    played = make_run(loaded)
    reference = reference_logits(loaded, played)
    return {
        precision: compare(
            reference,
            played_logits(graphs[precision].repository, graphs[precision].checkpoint, played, plan.threads),
        )
        for precision in reduced
    }


def _graph(loaded: Loaded, plan: Plan, precision: str) -> Graph:
    repository, checkpoint = exported(loaded, plan.size, precision, plan.cache)
    return Graph(repository, checkpoint, traffic_of(repository / GRAPH))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--songs", type=numbers, default=[1, 4, 16], help="songs at once, as in 1,4,16")
    parser.add_argument("--precision", type=words, default=["fp32", "int8"], help="precisions, as in fp32,int8")
    parser.add_argument("--takes", type=numbers, default=[8, 30], help="lengths of takes in seconds")
    parser.add_argument("--steps", type=int, default=8, help="steps timed at each context in each round")
    parser.add_argument("--rounds", type=int, default=3, help="how often ours and the peer take turns")
    parser.add_argument("--peers", type=_variants, default=list(VARIANTS), help=f"of {','.join(VARIANTS)}; empty: none")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="threads of both sides")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where exported graphs are kept")
    parser.add_argument("--json", type=Path, help="write the document to this file too")
    return parser.parse_args(arguments)


def _plan(parsed: argparse.Namespace) -> Plan:
    return Plan(
        size=SIZES[parsed.size],
        songs=parsed.songs,
        precisions=parsed.precision,
        takes=parsed.takes,
        steps=parsed.steps,
        rounds=parsed.rounds,
        peers=parsed.peers,
        threads=parsed.threads,
        cache=parsed.cache,
    )


def _variants(text: str) -> list[str]:
    names = words(text)
    if unknown := set(names) - set(VARIANTS):
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    return names


def _seconds(steps: dict[int, list[Step]]) -> dict[int, list[float]]:
    return {context: [step.seconds for step in some] for context, some in steps.items()}


def _note_steps(who: str, seconds: dict[int, list[float]]) -> None:
    """Say how it goes: a run takes minutes, and may be broken off."""
    found = ", ".join(f"{median(some) * 1e3:.1f} ms at {context}" for context, some in seconds.items())
    _note(f"  {who}: {found}")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
