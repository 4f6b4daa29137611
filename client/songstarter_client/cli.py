"""`songstarter generate`: one flag for each public input, the paths of the files on stdout."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

from songstarter import contract
from songstarter.contract import Datatype, Field
from songstarter.errors import Description
from songstarter.key import Key
from songstarter_client import trust
from songstarter_client.chunk import Chunk
from songstarter_client.cli_stream import STDOUT, named_format, stream, with_named_format
from songstarter_client.client import TIMEOUT, Client
from songstarter_client.errors import InvalidRequest, SongstarterError, TimedOut, Unavailable
from songstarter_client.fields import SENDABLE, Fields
from songstarter_client.outgoing import HANDLING
from songstarter_client.progress import Progress
from songstarter_client.song import Song

INTERRUPTED = 130
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InvalidRequest, 2),
    (Unavailable, 3),
    (TimedOut, 4),
    (SongstarterError, 1),
    (OSError, 1),
    (KeyboardInterrupt, INTERRUPTED),
)

EPILOG = """\
exit codes:
  0    the files are written, their paths on stdout (or, with --stream -o -, the song itself)
  1    the server failed, or a file could not be written
  2    bad usage, or a request that is not allowed
  3    no server, one that cannot take the request now or broke off, or --deadline has passed
  4    no answer within --timeout
  130  interrupted by Ctrl-C"""

SPECIAL_KINDS: Mapping[str, dict[str, Any]] = {
    "normalization_strategy": {"choices": contract.NORMALIZATIONS},
    "output_format": {"choices": contract.STREAM_FORMATS},
    "request_id": {"metavar": "ID"},
}
FLAG_KINDS: Mapping[Datatype, dict[str, Any]] = {
    "STRING": {"type": str, "metavar": "FILE"},
    "FP32": {"type": float, "metavar": "X"},
    "INT32": {"type": int, "metavar": "N"},
    "INT64": {"type": int, "metavar": "N"},
    "BOOL": {"action": "store_const", "const": True},
}
FLAGS = tuple(field for field in SENDABLE.values() if field.name != "prompt")
(CHUNK_SECONDS,) = (field for field in contract.STREAM_FIELDS if field.name == "chunk_seconds")


def configure(parser: argparse.ArgumentParser) -> None:
    """Give parser the arguments of `songstarter generate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Make a song on a Songstarter server and write its variations into a folder."
    parser.epilog = EPILOG
    parser.add_argument("prompt", metavar="PROMPT", help=SENDABLE["prompt"].meaning)
    for field in FLAGS:
        parser.add_argument(_flag(field), **_options(field))
    _configure_output(parser)
    _configure_server(parser)


def run(args: argparse.Namespace) -> int:
    """Make the song that args ask for; return the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # it tells stderr of a failed handshake; so do we, in a sentence
    try:
        _generate(args)
    except tuple(kind for kind, _ in EXIT_CODES) as problem:
        if not isinstance(problem, KeyboardInterrupt):
            print(f"songstarter: {problem}", file=sys.stderr)
        return next(code for kind, code in EXIT_CODES if isinstance(problem, kind))
    return 0


def _configure_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--out", metavar="DIR", type=Path, default=Path(), help="folder for the files (default: .)"
    )
    output.add_argument(
        "--stream",
        action="store_true",
        help="write the song while it is being made, one variation unless --num-outputs says more; DIR may be a file's"
        " name, whose ending says the format, or - for stdout; what breaks off leaves what has come",
    )
    output.add_argument(_flag(CHUNK_SECONDS), **_options(CHUNK_SECONDS))
    output.add_argument("--json", action="store_true", help="print one JSON document instead of the paths")
    output.add_argument("--quiet", action="store_true", help="show no progress on stderr")


def _configure_server(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url",
        metavar="HOST:PORT",
        default="127.0.0.1:8001",
        help="the server's gRPC address, or http://HOST:PORT; by TLS grpcs:// or https:// (default: %(default)s)",
    )
    server.add_argument(
        "--timeout",
        metavar="S",
        type=float,
        default=TIMEOUT,
        help="seconds to wait for the server, further tries and the pauses before them included (default: %(default)g)",
    )
    server.add_argument(
        "--retries",
        metavar="N",
        type=int,
        default=0,
        help="further tries while the server cannot take the request or nobody answers; none after the connection has"
        " broken off, for the song may have begun (default: %(default)s)",
    )
    for field in HANDLING:
        server.add_argument(_flag(field), **_options(field))
    server.add_argument(
        "--key-file",
        metavar="FILE",
        type=Path,
        help="the server's key, if it asks for one (or in SONGSTARTER_KEY_FILE or SONGSTARTER_KEY)",
    )
    server.add_argument(
        "--ca-file",
        metavar="FILE",
        type=Path,
        help="certificates of who signs the server's, where the usual ones do not (or in SONGSTARTER_CA_FILE)",
    )


def _flag(field: Field) -> str:
    return "--" + field.name.replace("_", "-")


def _options(field: Field) -> dict[str, Any]:
    """argparse's view of a field; its absence stays None, so that the server's default holds."""
    kind = SPECIAL_KINDS.get(field.name) or FLAG_KINDS[field.datatype]
    return {**kind, "dest": field.name, "help": (field.meaning + _default(field)).replace("%", "%%")}


def _default(field: Field) -> str:
    match field.default:
        case None | bool():
            return ""
        case float(number):
            return f" (default: {number:g})"
        case other:
            return f" (default: {other!s})"


def _generate(args: argparse.Namespace) -> None:
    flags = (*FLAGS, CHUNK_SECONDS, *HANDLING)
    given = {field.name: value for field in flags if (value := getattr(args, field.name)) is not None}
    if args.stream:
        given = with_named_format(given, args.out)
    if args.json and args.out == STDOUT:
        raise InvalidRequest("--json", Description("-o -"), "a file or a folder for the song, or no --json")
    started = time.monotonic()
    key = Key.given(args.key_file)
    client = Client(
        args.url,
        timeout=args.timeout,
        retries=args.retries,
        key=key.text if key else None,
        ca_file=trust.chosen(args.ca_file),
    )
    make = stream if args.stream else _whole
    with client, _progress(args):
        paths, made = make(client, args, given)
    elapsed = time.monotonic() - started
    files = [str(path) for path in paths]
    if args.json:
        print(_document(files, made, elapsed, {"prompt": args.prompt, **given}))
    elif files:
        print("\n".join(files))


def _whole(client: Client, args: argparse.Namespace, given: Mapping[str, Any]) -> tuple[list[Path], Song]:
    if CHUNK_SECONDS.name in given:
        raise InvalidRequest(_flag(CHUNK_SECONDS), given[CHUNK_SECONDS.name], "nothing without --stream")
    if args.out == STDOUT or named_format(args.out):
        raise InvalidRequest("-o", Description(args.out), "a folder without --stream")
    args.out.mkdir(parents=True, exist_ok=True)  # before the wait, so that a bad folder costs no song
    song = client.generate(args.prompt, **cast(Fields, given))
    return song.save(args.out), song


def _progress(args: argparse.Namespace) -> AbstractContextManager[object]:
    return nullcontext() if args.quiet else Progress(f"waiting for {args.url}:")


def _document(files: list[str], made: Song | Chunk, elapsed: float, request: Mapping[str, object]) -> str:
    """What --json prints: one object, with the request as it was given."""
    return json.dumps(
        {
            "files": files,
            "format": request.get("output_format", contract.FORMATS[0]),
            "seed": made.seed,
            "sample_rate": made.sample_rate,
            "elapsed_seconds": round(elapsed, 3),
            "request": request,
        },
        ensure_ascii=False,
        indent=2,
    )
