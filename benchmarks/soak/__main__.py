"""``python -m benchmarks.soak --minutes 30 --json FILE``: hours of mixed load on a server of its own.

Short, long, streamed and bad requests, some given up by their callers at random. Every one is accounted for, every
answer is compared with the same request's solo run, memory is watched. Bounded in time and count. The last line is one
JSON document; exit code 0 where nothing was lost, wrong or failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import machine
from benchmarks.soak.catalogue import SHARES, catalogue
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.memory import Memory
from benchmarks.soak.sending import Sender, songs_alone
from songstarter.errors import SongstarterError
from songstarter.freed_memory import PERIOD as FREED_EVERY
from songstarter.server.launch import Ports
from songstarter.server.server import Server
from songstarter_client import AsyncClient

PACKAGES = ("numpy", "tritonclient", "nvidia-pytriton", "onnxruntime")
QUIET = 30.0  # seconds after the last request within which nothing may be under way any more
SAID_EVERY = 30.0  # seconds
IDLE = ("songstarter_requests_in_flight", "songstarter_slots_in_use", "songstarter_takes_waiting")


async def soak(server: Server, args: argparse.Namespace, ledger: Ledger, memory: Memory) -> dict[str, Any]:
    """The load; what it leaves behind."""
    requests = catalogue(args.seed, args.longest)
    async with AsyncClient(server.grpc_url, timeout=args.timeout) as grpc, AsyncClient(server.http_url) as http:
        progress(f"singing {sum(map(len, requests.values()))} requests alone")
        alone = await songs_alone(grpc, requests)
        await memory.rest(args.rest)
        until = time.monotonic() + 60 * args.minutes
        sender = Sender((grpc, http), requests, alone, ledger, until, args.requests, args.timeout)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(memory.watch(until))
            telling = group.create_task(tell(ledger, until))
            workers = [group.create_task(sender.work(Random(f"{args.seed} {place}"))) for place in range(args.workers)]
            await asyncio.gather(*workers)
            watching.cancel()
            telling.cancel()
        left = await until_idle(server)
        await memory.rest(args.rest)
        progress("singing the short ones alone once more")
        again = await songs_alone(grpc, {"short": requests["short"]})
    changed = [name for name, digests in again.items() if alone[name] != digests]
    return {"left_under_way": left, "changed_afterwards": changed}


async def tell(ledger: Ledger, until: float) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(SAID_EVERY)
        progress(", ".join(f"{count} {end}" for end, count in ledger.ends.most_common()))


async def until_idle(server: Server) -> dict[str, float]:
    """What the metrics still count as under way when they should count nothing; empty where all is quiet."""
    deadline = time.monotonic() + QUIET
    while (busy := under_way(server)) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return busy


def under_way(server: Server) -> dict[str, float]:
    _, text = server.metrics_door.ask("GET", "/metrics", timeout=10)
    lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if line.startswith(IDLE)]
    return {name: float(value) for name, value in lines if float(value)}


def main() -> int:
    args = _arguments()
    ledger = Ledger(tell=progress)
    with (
        tempfile.TemporaryDirectory(prefix="songstarter-soak-") as run_directory,
        Server(args.repository, Ports.free(), Path(run_directory), tell=progress, exit_timeout=30) as server,
    ):
        memory = Memory(server)
        processes = server.stubs()
        started = time.monotonic()
        left = asyncio.run(soak(server, args, ledger, memory))
        died = server.process.poll() is not None or server.stubs() != processes
    document = {
        "benchmark": "soak",
        "minutes": round((time.monotonic() - started) / 60, 2),
        "minutes_of_load": args.minutes,
        "workers": args.workers,
        "seed": args.seed,
        "shares": SHARES,
        "processes_died": died,
        "requests": ledger.document(),
        **left,
        "memory": memory.document(),
        "machine": machine.facts(PACKAGES),
    }
    text = json.dumps(document)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n")
    print(text)
    return 0 if ledger.well and not died and not any(left.values()) else 1


def progress(line: str) -> None:
    print(f"soak: {line}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="of load (default: %(default)g)")
    parser.add_argument("--requests", type=int, default=1_000_000, metavar="N", help="at most (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=12, metavar="N", help="requests at once (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="then a request counts as lost")
    parser.add_argument(
        "--rest",
        type=float,
        default=FREED_EVERY + 5,
        metavar="S",
        help="before and after, until memory is looked at (default: %(default)g: what was freed has been given back)",
    )
    parser.add_argument("--longest", type=float, default=300.0, metavar="S", help="song (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document to this file too")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongstarterError as error:
        sys.exit(f"soak: {error}")
