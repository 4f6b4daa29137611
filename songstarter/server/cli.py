"""``songstarter serve``."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Callable
from pathlib import Path

SLOW_BYTES = 10**9  # what takes more than a second or two to read


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Start Triton with the exported checkpoint and keep it running."
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), help="what `songstarter export` wrote into"
    )
    parser.add_argument(
        "--host", type=address, default="127.0.0.1", metavar="ADDRESS", help="where to listen; 0.0.0.0: everywhere"
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="the key that callers must show (or in SONGSTARTER_KEY_FILE or SONGSTARTER_KEY)",
    )
    parser.add_argument(
        "--without-key", action="store_true", help="listen on --host although no key is given: everybody may ask"
    )
    parser.add_argument("--http-port", type=port, default=8000, metavar="PORT")
    parser.add_argument("--grpc-port", type=port, default=8001, metavar="PORT")
    parser.add_argument("--metrics-port", type=port, default=8002, metavar="PORT")
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="MODEL.PARAMETER=VALUE",
        help="in place of what the model's config.pbtxt says, e.g. decoder.slots=8; may be given more than once",
    )
    parser.add_argument(
        "--exit-timeout", type=int, default=60, metavar="SECONDS", help="what requests in flight get at the end"
    )
    parser.add_argument(
        "--start-timeout", type=float, default=600.0, metavar="SECONDS", help="what loading the models may take"
    )
    parser.add_argument(
        "--hang-timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="a model that has not answered a test request for so long counts as hung",
    )
    parser.add_argument("--run-directory", type=Path, default=Path("run"), help="where Triton's log is kept")
    _configure_tracing(parser)
    parser.add_argument("--verbose", action="store_true", help="show Triton's log too")


def _configure_tracing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace-to",
        metavar="URL",
        help="send the spans of requests to an OpenTelemetry collector, e.g. http://127.0.0.1:4318/v1/traces",
    )
    parser.add_argument(
        "--trace-every", type=int, default=1, metavar="N", help="trace one request in N (with --trace-to)"
    )


def port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"found {number}, allowed is 1 to 65535")
    return number


def address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed is an IPv4 address") from None


def setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not (value and all(name.partition("."))):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected is MODEL.PARAMETER=VALUE, such as decoder.slots=8")
    return name, value


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; 0 after a clean stop, 1 where requests in flight were lost.

    Raises:
        CheckpointError, ServerError, UnusableKey: in one sentence, for the caller to show.
    """
    from songstarter.checkpoint import Checkpoint
    from songstarter.digests import require_unaltered, size_of
    from songstarter.key import Key
    from songstarter.server.canary import canaries
    from songstarter.server.exposure import Exposure
    from songstarter.server.launch import Ports, Tracing
    from songstarter.server.server import Server
    from songstarter.server.supervise import Patience, Supervisor
    from songstarter.settings import require_known

    exposure = Exposure.checked(args.host, Key.given(args.key_file), without_key=args.without_key)

    def new_server(go_on: Callable[[], None]) -> Server:
        # At a restart too: a damaged disk may be its reason.
        require_unaltered(args.repository, checkpoint.digests, go_on)
        return Server(
            args.repository,
            Ports(args.http_port, args.grpc_port, args.metrics_port),
            args.run_directory,
            exit_timeout=args.exit_timeout,
            start_timeout=args.start_timeout,
            tracing=Tracing(args.trace_to, args.trace_every) if args.trace_to else None,
            exposure=exposure,
            settings=settings,
            verbose=args.verbose,
            tell=tell,
        )

    def ready(server: Server) -> None:
        tell(f"ready: HTTP {server.http_url}, gRPC {server.grpc_url}, metrics {server.metrics_url}")

    checkpoint = Checkpoint.read(args.repository)
    settings = dict(args.set)
    require_known(settings, checkpoint)
    if (size := size_of(args.repository, checkpoint.digests)) > SLOW_BYTES:
        tell(f"comparing {size / 1e9:.1f} GB of graphs with their digests")
    tell(f"starting Triton; its log is {args.run_directory}/tritonserver-{args.http_port}.log")
    patience = Patience(canary_timeout=args.hang_timeout)
    clean = Supervisor(new_server, canaries(checkpoint), tell, ready=ready, patience=patience).run()
    tell("stopped" if clean else "stopped before every request in flight was answered")
    return 0 if clean else 1


def tell(line: str) -> None:
    print(f"songstarter: {line}", file=sys.stderr, flush=True)
