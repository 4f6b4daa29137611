"""The engine on one CUDA device beside transformers, at the full size of songstarter, in one run under eight minutes.

    python -m benchmarks.gpu --json FILE

Says first whether the device computes what torch does, then what its memory allows, then what was measured. A part
that fails is a line of its own and loses no other. The last line is all of it as one JSON document.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

from benchmarks import gpu_device
from benchmarks.arguments import numbers, words
from benchmarks.gpu_model import make_model, write_graph
from benchmarks.gpu_parity import GREEDY_EQUAL, Parity, parity
from benchmarks.gpu_process import Budget, run_side
from benchmarks.machine import cores
from benchmarks.measurements import Measurements, samples
from benchmarks.peer import GPU_VARIANTS, PeerDecode
from benchmarks.quality import Run, make_run, reference_logits
from benchmarks.report import Case, Question, document, prediction, table
from benchmarks.roofline import Traffic, traffic_of
from benchmarks.shapes import SIZES, Size, contexts_along, last_context
from benchmarks.timing import Step
from export.checkpoints import Loaded
from songstarter.array import Array
from songstarter.checkpoint import Device, Precision
from songstarter.stages.decoder import GRAPH, KEPT_ROWS
from songstarter.stages.kv_memory import ROWS_PER_SLOT

SPARE_BYTES = 3 * 2**30  # for what a step computes with, and for torch's own
# What the project aims at on an H200: songs, precision, seconds of audio per second, at least and as the aim.
AIMS = ((1, "fp16", 8, 11), (32, "fp16", 50, 65), (64, "fp16_kv8", 100, 130))
LEAST_SPEEDUP = 10


@dataclass(frozen=True)
class Plan:
    """What was asked on the command line."""

    size: Size
    check: Size  # compared with torch before the other
    device: Device
    songs: Sequence[int]
    precisions: Sequence[str]
    takes: Sequence[int]
    steps: int
    played_seconds: int
    peers: Sequence[str]
    budget: Budget
    folder: Path

    def folder_of(self, size: Size, precision: str) -> Path:
        return self.folder / f"{size.name}-{precision}"


@dataclass
class Findings:
    """What has been found so far, failures included."""

    parities: list[Parity] = field(default_factory=list)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    positions: int = 0
    questions: list[Question] = field(default_factory=list)
    measurements: Measurements = field(default_factory=Measurements)
    failures: list[str] = field(default_factory=list)

    def attempt(self, what: str, work: Callable[[], object]) -> None:
        """Do a part of the benchmark; its failure is a finding."""
        start = time.monotonic()
        try:
            work()
            _note(f"{what}: {time.monotonic() - start:.1f} s")
        except Exception as error:  # torch's, onnxruntime's and our own
            self.fail(f"{what}: {type(error).__name__}: {error}".splitlines()[0])

    def fail(self, words: str) -> None:
        self.failures.append(words)
        _note(words)


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parse(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if lacking := gpu_device.lacking(parsed.device):
        raise SystemExit(lacking)

    def keep(found: dict[str, Any]) -> None:
        if parsed.json:
            parsed.json.write_text(json.dumps(found) + "\n")

    with tempfile.TemporaryDirectory(dir=parsed.folder, prefix="songstarter-gpu-") as folder:
        found = run(_plan(parsed, Path(folder)), keep)
    print(json.dumps(found))
    return 0 if found["parity_holds"] else 1


def run(plan: Plan, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Compare, predict, measure, print; the document. After each part ``keep`` gets it as far as it goes."""
    facts, bandwidth = gpu_device.facts(plan.device), gpu_device.bandwidth(plan.device)
    print(f"{facts.get('gpu', facts['cpu'])}, copies at {bandwidth / 1e9:.0f} GB/s", flush=True)
    findings = Findings()

    def part(what: str, work: Callable[[], object]) -> None:
        findings.attempt(what, work)
        keep(_document(plan, findings, facts, bandwidth))

    if plan.check is not plan.size:
        small = make_model(plan.check, plan.device)
        part("the small model", lambda: _compare_with_torch(plan, plan.check, small, findings))
    loaded = make_model(plan.size, plan.device)
    part("the whole model", lambda: _compare_with_torch(plan, plan.size, loaded, findings))
    gpu_device.give_back(plan.device)
    findings.questions = questions = _questions(plan, findings)
    print(f"{plan.size.name}, predicted:\n{prediction(questions, findings.traffic, bandwidth)}", flush=True)
    for precision in findings.traffic:
        part(f"ours in {precision}", partial(_measure_ours, plan, precision, questions, findings))
    for variant in plan.peers:
        for songs in plan.songs:
            work = partial(_measure_peer, plan, loaded, variant, songs, findings)
            part(f"transformers {variant} at {songs} songs", work)
    _tell(plan, findings)
    return _document(plan, findings, facts, bandwidth)


def _compare_with_torch(plan: Plan, size: Size, loaded: Loaded, findings: Findings) -> None:
    """Write the graphs of every precision and hold each to torch's fp32 on the same weights."""
    played = make_run(loaded, plan.played_seconds)
    decoder = loaded.model.decoder
    dtype = decoder.dtype
    reference = reference_logits(replace(loaded, model=loaded.model.float()), played)
    loaded.model.to(dtype)  # what was half precision is again, to the last bit
    gpu_device.give_back(plan.device)
    for precision in plan.precisions:
        folder = plan.folder_of(size, precision)
        checkpoint = write_graph(loaded, precision, folder)
        if size is plan.size:
            findings.positions = checkpoint.decoder.positions
            findings.traffic[precision] = traffic_of(folder / GRAPH)
        work = partial(_note_parity, plan, size, precision, played, reference, findings)
        findings.attempt(f"parity of {size.name} in {precision}", work)


def _note_parity(plan: Plan, size: Size, precision: str, played: Run, reference: Array, findings: Findings) -> None:
    folder = plan.folder_of(size, precision)
    found = parity(
        size.name, cast(Precision, precision), folder, played, reference, device=plan.device, budget=plan.budget
    )
    findings.parities.append(found)
    print(found, flush=True)


def _questions(plan: Plan, findings: Findings) -> list[Question]:
    """The cases the device has the memory for; words on the others go to the failures."""
    free = gpu_device.free_bytes(plan.device)
    questions = []
    for precision, traffic in findings.traffic.items():
        for songs in plan.songs:
            rows = songs * ROWS_PER_SLOT + KEPT_ROWS
            needed = traffic.weights + rows * findings.positions * traffic.per_position + SPARE_BYTES
            if needed > free:
                words = f"{songs} songs in {precision} need {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
                findings.fail(f"not measured: {words}")
            else:
                questions += [Question(songs, precision, take) for take in plan.takes]
    return questions


def _measure_ours(plan: Plan, precision: str, questions: Sequence[Question], findings: Findings) -> None:
    songs = sorted({question.songs for question in questions if question.precision == precision})
    contexts = contexts_along(plan.takes)
    bandwidth = dict.fromkeys(contexts, gpu_device.bandwidth(plan.device))
    gpu_device.give_back(plan.device)
    wanted = ["--songs", _joined(songs), "--contexts", _joined(contexts), "--steps", str(plan.steps)]
    steps: dict[int, dict[int, list[Step]]] = {count: {} for count in songs}
    folder = plan.folder_of(plan.size, precision)
    try:
        for line in run_side(["measure", folder, "--device", plan.device, *wanted], plan.budget):
            if "error" in line:
                findings.fail(f"ours in {precision} at {line['songs']} songs: {line['error']}")
            else:
                timed = map(Step, line["seconds"], line["in_model"])
                steps[line["songs"]][line["context"]] = list(timed)
                _note(f"  {line['songs']} songs: {median(line['seconds']) * 1e3:.2f} ms at {line['context']}")
    finally:
        for count, found in steps.items():
            if len(found) == len(contexts):
                findings.measurements.add_ours(count, precision, found, bandwidth)


def _measure_peer(plan: Plan, loaded: Loaded, variant: str, songs: int, findings: Findings) -> None:
    """Along the shorter takes first; a static cache has the length of its take."""
    seconds: dict[int, list[float]] = {}
    with PeerDecode(loaded, GPU_VARIANTS[variant], songs=songs, threads=cores()) as peer:
        for context in contexts_along(plan.takes):
            plan.budget.require()
            capacity = min(last for last in map(last_context, plan.takes) if last >= context)
            seconds[context] = peer.measure(context, plan.steps, capacity=capacity)
            _note(f"  {median(seconds[context]) * 1e3:.1f} ms at {context}")
            if context in map(last_context, plan.takes):
                findings.measurements.peer[songs, variant] = []
                findings.measurements.add_peer(songs, variant, seconds)


def _cases(plan: Plan, findings: Findings) -> list[Case]:
    quality = {parity.precision: parity.quality for parity in findings.parities if parity.size == plan.size.name}
    measured = findings.measurements
    return [
        measured.case(question, findings.traffic[question.precision], quality.get(question.precision))
        for question in findings.questions
        if (question.songs, question.precision) in measured.ours
    ]


def _parity_holds(plan: Plan, findings: Findings) -> bool:
    expected = len(plan.precisions) * (1 if plan.check is plan.size else 2)
    return len(findings.parities) == expected and all(parity.holds for parity in findings.parities)


def _tell(plan: Plan, findings: Findings) -> None:
    """The table and the verdict."""
    cases = _cases(plan, findings)
    print(f"measured:\n{table(cases)}" if cases else "nothing was measured")
    print("\n".join([*map(str, findings.parities), *verdicts(cases), *(f"failed: {f}" for f in findings.failures)]))
    verdict = "holds" if _parity_holds(plan, findings) else "DOES NOT HOLD"
    print(f"verdict: parity {verdict}; {len(cases)} cases measured, {len(findings.failures)} failures")


def _document(plan: Plan, findings: Findings, facts: dict[str, Any], bandwidth: float) -> dict[str, Any]:
    return document(
        _cases(plan, findings),
        size=asdict(plan.size),
        device=plan.device,
        machine=facts,
        parity_holds=_parity_holds(plan, findings),
        parities=[asdict(parity) | {"holds": parity.holds} for parity in findings.parities],
        bandwidth_gb_per_second={"copy": bandwidth / 1e9},
        steps=plan.steps,
        rounds=1,
        samples=samples(findings.measurements),
        failures=findings.failures,
    )


def verdicts(cases: Sequence[Case]) -> list[str]:
    """Each case that has an aim, beside it; the aims are an H200's."""
    lines = []
    for case in cases:
        for songs, precision, least, aim in AIMS:
            if (case.songs, case.precision) == (songs, precision):
                rate = case.audio_seconds_per_second
                words = "reached" if rate >= aim else "above the least" if rate >= least else "MISSED"
                lines.append(
                    f"{words}: {songs} songs of {case.take_seconds} s in {precision} at {rate:.1f} times real time in "
                    f"sum, at least {least} and as the aim {aim} on an H200"
                )
        if case.speedup is not None and case.speedup < LEAST_SPEEDUP:
            lines.append(f"MISSED: {case.songs} songs, {case.precision}: {case.speedup:.1f} times transformers")
    return lines


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="cpu tries the program, no device")
    parser.add_argument("--songs", type=numbers, default=[1, 4, 8, 32, 64], help="songs at once")
    parser.add_argument("--precision", type=words, default=["fp16", "fp16_kv8"], help=f"of {','.join(GREEDY_EQUAL)}")
    parser.add_argument("--takes", type=numbers, default=[8, 30], help="lengths of takes in seconds")
    parser.add_argument("--steps", type=int, default=16, help="steps timed at each context")
    parser.add_argument("--played", type=int, default=8, help="seconds that are played to compare with torch")
    parser.add_argument("--peers", type=words, default=["sdpa", "static+compile", "static+graphs"])
    parser.add_argument("--budget", type=float, default=340, help="seconds after which nothing new begins")
    parser.add_argument("--folder", type=Path, help="where graphs are written meanwhile; the system's by default")
    parser.add_argument("--json", type=Path, help="write the document to this file too")
    return parser.parse_args(arguments)


def _plan(parsed: argparse.Namespace, folder: Path) -> Plan:
    size = SIZES[parsed.size]
    return Plan(
        size=size,
        check=size if parsed.size == "tiny" else SIZES["check"],
        device=parsed.device,
        songs=parsed.songs,
        precisions=parsed.precision,
        takes=sorted(parsed.takes),
        steps=parsed.steps,
        played_seconds=parsed.played,
        peers=parsed.peers,
        budget=Budget(time.monotonic() + parsed.budget),
        folder=folder,
    )


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
