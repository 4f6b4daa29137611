"""The ``songstarter`` command: its subcommands live where their work is, and load when they are called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from songstarter.errors import SongstarterError


class Module(Protocol):
    """What a subcommand's module holds."""

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


@dataclass(frozen=True)
class Command:
    """A subcommand: where it lives, and what must be installed beside the client for it."""

    name: str
    module: str
    install: str
    help: str

    def load(self) -> Module:
        return cast(Module, importlib.import_module(self.module))


COMMANDS = (
    Command("serve", "songstarter.server.cli", "songstarter[serve]", "start Triton and keep it running"),
    Command("export", "export.cli", "songstarter[export]", "turn a checkpoint into what Triton serves"),
    Command("generate", "songstarter_client.cli", "songstarter", "ask a running server for songs"),
    Command("bench", "benchmarks.serving.cli", "songstarter[bench]", "load a running server and say what it holds"),
)
OWN = ("songstarter", "songstarter_client", "export", "benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; what goes wrong on purpose is one sentence on stderr and exit code 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = [command for command in COMMANDS if command.name == next(iter(arguments), None)]
    try:
        parsed = parser(named).parse_args(arguments)
        return named[0].load().run(parsed)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in OWN and error.name == missing:
            return refuse(f"{named[0].name} is not part of this installation: install songstarter from its source")
        if missing in OWN:
            raise
        return refuse(f"{named[0].name} needs {missing}, not installed here: pip install '{named[0].install}'")
    except SongstarterError as error:
        return refuse(str(error))
    except KeyboardInterrupt:
        return 130


def parser(named: Sequence[Command]) -> argparse.ArgumentParser:
    """Every subcommand by name, and the options of the named one: the others' modules are not imported."""
    root = argparse.ArgumentParser(prog="songstarter", description="MusicGen on Triton: export, serve, generate.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help)
        if command in named:
            command.load().configure(sub)
    return root


def refuse(sentence: str) -> int:
    print(f"songstarter: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
