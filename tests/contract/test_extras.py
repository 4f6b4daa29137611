"""Each extra is enough: what it installs lets its subcommand import all that it runs."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from songstarter.cli import COMMANDS, OWN, Command

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRITONS = "triton_python_backend_utils"  # brought by Triton itself
IN_TRITON = [*sorted(ROOT.glob("model_repository/*/1/model.py")), ROOT / "backends/onnxruntime/model.py"]

# Gets a JSON object: the top-level modules that are to be missing, and what to import.
PROBE = """
import importlib, json, sys

class Only:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else self.finder.find_spec(name, path, target)

given = json.loads(sys.argv[1])
missing = set(given["missing"])
sys.meta_path[:] = map(Only, sys.meta_path)
for name in given["imports"]:
    importlib.import_module(name)
"""


def required(names: Iterable[str]) -> Iterator[Requirement]:
    """What these lines of pyproject.toml ask for, the project's own extras spelt out."""
    for requirement in map(Requirement, names):
        if requirement.name == PROJECT["name"]:
            for extra in requirement.extras:
                yield from required(PROJECT["optional-dependencies"][extra])
        else:
            yield requirement


def installed_for(extra: str | None) -> set[str]:
    """The distributions of an installation with this extra, or with none: as far as they are here."""
    lines = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else [])]
    waiting, seen, found = list(required(lines)), set(), set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        try:
            brought = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        contexts = [{"extra": extra} for extra in ("", *wanted.extras)]
        waiting += [one for one in brought if one.marker is None or any(map(one.marker.evaluate, contexts))]
    return found


@cache
def owners() -> Mapping[str, Sequence[str]]:
    """Of every top-level module that is installed here, the distributions that bring it."""
    return metadata.packages_distributions()


def missing_without(distributions: set[str]) -> list[str]:
    """The top-level modules that only others bring."""
    return [
        module
        for module, brought_by in owners().items()
        if module not in OWN and not distributions & set(map(canonicalize_name, brought_by))
    ]


def imported(path: Path) -> Iterator[str]:
    """The modules that a file names in its imports, those within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def import_with_only(extra: str | None, modules: Iterable[str]) -> str:
    """The last thing that is said where these modules are imported and nothing else is installed."""
    given = {"missing": missing_without(installed_for(extra)), "imports": sorted(set(modules) - {TRITONS})}
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", PROBE, json.dumps(given)]
    ran = subprocess.run(command, env=path, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stderr.strip().splitlines()[-1]


def file_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_subcommand_needs_no_more_than_it_tells_to_install(command: Command) -> None:
    (extra,) = Requirement(command.install).extras or {None}
    assert import_with_only(extra, imported(file_of(command.module))) == ""


@pytest.mark.parametrize("extra", ["runtime", "serve"])
def test_the_models_in_triton_need_no_more_than_their_extra(extra: str) -> None:
    assert import_with_only(extra, (name for path in IN_TRITON for name in imported(path))) == ""


def test_what_an_extra_lacks_is_missed() -> None:
    assert import_with_only(None, ["numpy"]) == ""
    assert import_with_only(None, ["soundfile"]) == "ModuleNotFoundError: No module named 'soundfile'"
    assert import_with_only("export", ["songstarter.audio_file"]) == "ModuleNotFoundError: No module named 'soundfile'"
