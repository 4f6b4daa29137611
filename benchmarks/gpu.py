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
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

from benchmarks import gpu_device, gpu_kernels
from benchmarks.arguments import numbers, words
from benchmarks.gpu_findings import Findings, Plan, document_of, note, tell
from benchmarks.gpu_model import make_model, write_graph
from benchmarks.gpu_parity import GREEDY_EQUAL, parity
from benchmarks.gpu_process import Budget, run_side
from benchmarks.machine import cores
from benchmarks.peer import GPU_VARIANTS, PeerDecode
from benchmarks.quality import Run, make_run, reference_logits
from benchmarks.report import Question, prediction
from benchmarks.roofline import traffic_of
from benchmarks.shapes import SIZES, Size, contexts_along, last_context
from benchmarks.timing import Step
from export.checkpoints import Loaded
from songstarter.array import Array
from songstarter.checkpoint import Precision
from songstarter.stages.decoder import GRAPH, KEPT_ROWS
from songstarter.stages.kv_memory import ROWS_PER_SLOT

SPARE_BYTES = 3 * 2**30  # for what a step computes with, and for torch's own; weights are the graph's and the kernels'


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
        keep(document_of(plan, findings, facts, bandwidth))

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
    tell(plan, findings)
    return document_of(plan, findings, facts, bandwidth)


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
        for slots in plan.companies(size):
            work = partial(_note_parity, plan, size, precision, slots, played, reference, findings)
            findings.attempt(f"parity of {size.name} in {precision} in {slots} slots", work)


def _note_parity(
    plan: Plan, size: Size, precision: str, slots: int, played: Run, reference: Array, findings: Findings
) -> None:
    found = parity(
        size.name,
        cast(Precision, precision),
        slots,
        plan.folder_of(size, precision),
        played,
        reference,
        device=plan.device,
        budget=plan.budget,
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
            needed = 2 * traffic.weights + rows * findings.positions * traffic.per_position + SPARE_BYTES
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
    wanted += ["--watch", _joined(sorted({*songs[:1], *songs[-1:]}))]
    steps: dict[int, dict[int, list[Step]]] = {count: {} for count in songs}
    folder = plan.folder_of(plan.size, precision)
    try:
        for line in run_side(["measure", folder, "--device", plan.device, *wanted], plan.budget):
            if "computed_by" in line:
                findings.computed_by[precision] = line["computed_by"]
                note(f"  by {line['computed_by']}")
            elif "kernels" in line:
                findings.kernels[f"{line['songs']} x {precision}"] = line["kernels"]
                note(f"  {line['songs']} songs: {gpu_kernels.in_words(line['kernels'])}")
            elif "error" in line:
                findings.fail(f"ours in {precision} at {line['songs']} songs: {line['error']}")
            else:
                timed = map(Step, line["seconds"], line["in_model"])
                steps[line["songs"]][line["context"]] = list(timed)
                note(f"  {line['songs']} songs: {median(line['seconds']) * 1e3:.2f} ms at {line['context']}")
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
            note(f"  {median(seconds[context]) * 1e3:.1f} ms at {context}")
            if context in map(last_context, plan.takes):
                findings.measurements.peer[songs, variant] = []
                findings.measurements.add_peer(songs, variant, seconds)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="cpu tries the program, no device")
    parser.add_argument("--songs", type=numbers, default=[1, 4, 8, 32, 64], help="songs at once")
    parser.add_argument("--precision", type=words, default=["fp16", "fp16_kv8"], help=f"of {','.join(GREEDY_EQUAL)}")
    parser.add_argument("--takes", type=numbers, default=[8, 30], help="lengths of takes in seconds")
    parser.add_argument("--steps", type=int, default=16, help="steps timed at each context")
    parser.add_argument("--played", type=int, default=8, help="seconds that are played to compare with torch")
    parser.add_argument("--peers", type=words, default=["sdpa", "static+graphs"])
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


if __name__ == "__main__":
    sys.exit(main())
