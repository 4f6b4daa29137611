"""Reads a Dockerfile, and carries its stages out in a folder instead of an image.

Not a Docker: it knows what this project's files use. Absolute paths of an image become paths below a root folder,
a base image becomes nothing at all, and owners stay as they are.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NAMES = {
    *("FROM", "RUN", "CMD", "LABEL", "EXPOSE", "ENV", "ADD", "COPY", "ENTRYPOINT", "VOLUME", "USER", "WORKDIR", "ARG"),
    *("ONBUILD", "STOPSIGNAL", "HEALTHCHECK", "SHELL"),
}
IMAGE_FOLDERS = ("/opt/songstarter", "/build", "/dist", "/models", "/run/songstarter")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined; ``flags`` are the leading ``--name=value``."""

    line: int
    name: str
    flags: dict[str, str]
    rest: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.rest)

    @property
    def is_json(self) -> bool:
        """Whether the command is in the form that needs no shell."""
        try:
            return isinstance(json.loads(self.rest), list)
        except ValueError:
            return False


@dataclass(frozen=True)
class Stage:
    """What stands between one FROM and the next."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name == name]

    def last(self, name: str) -> Instruction:
        found = self.all(name)
        if not found:
            raise LookupError(f"stage {self.name} has no {name}")
        return found[-1]


def parse(path: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile, by name, in order.

    Raises:
        ValueError: an instruction that Docker does not know, or one before the first FROM.
    """
    stages: dict[str, Stage] = {}
    for instruction in instructions(path):
        if instruction.name == "FROM":
            base, _, name = re.split(r"\s+", instruction.rest)
            stages[name] = Stage(base, name)
        elif not stages:
            raise ValueError(f"{path.name}:{instruction.line}: {instruction.name} before the first FROM")
        else:
            list(stages.values())[-1].instructions.append(instruction)
    return stages


def instructions(path: Path) -> Iterator[Instruction]:
    text, start = "", 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        start = start if text else number
        text += line.removesuffix("\\").strip() + " "
        if not line.endswith("\\"):
            yield instruction(path, start, text.strip())
            text = ""


def instruction(path: Path, line: int, text: str) -> Instruction:
    name, _, rest = text.partition(" ")
    if name not in NAMES:
        raise ValueError(f"{path.name}:{line}: {name} is no instruction")
    flags = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    return Instruction(line, name, flags, rest)


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a file out of the build: the last pattern that fits it or a folder of it decides."""
    names = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    verdict = False
    for pattern in patterns:
        regular = regular_expression(pattern.removeprefix("!"))
        if any(regular.fullmatch(name) for name in names):
            verdict = not pattern.startswith("!")
    return verdict


def regular_expression(pattern: str) -> re.Pattern[str]:
    """As Docker has it: from the context's root on, ``*`` within a name, ``**/`` for any folders or none."""
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))


@dataclass
class Builder:
    """Carries stages out, each in a root folder of its own."""

    context: Path
    patterns: list[str]
    scratch: Path
    stages: dict[str, Stage]

    def build(self, name: str) -> Path:
        """The root folder of a stage, built with all that it stands on."""
        root = self.scratch / name
        if root.exists():
            return root
        stage = self.stages[name]
        root.mkdir(parents=True)
        if stage.base in self.stages:
            shutil.copytree(self.build(stage.base), root, symlinks=True, dirs_exist_ok=True)
        workdir, environment = "/", {}
        for step in stage.instructions:
            if step.name == "WORKDIR":
                workdir = step.rest
                self.within(root, workdir).mkdir(parents=True, exist_ok=True)
            elif step.name == "ENV":
                environment |= dict(word.split("=", 1) for word in step.words)
            elif step.name == "COPY":
                self.copy(step, root, workdir)
            elif step.name == "RUN":
                self.run(step, root, workdir)
        return root

    def within(self, root: Path, path: str, workdir: str = "/") -> Path:
        return root / os.path.normpath(os.path.join(workdir, path)).lstrip("/")

    def copy(self, step: Instruction, root: Path, workdir: str) -> None:
        *sources, target = step.words
        origin = self.build(step.flags["from"]) if "from" in step.flags else self.context
        into_folder = target.endswith("/") or len(sources) > 1
        for source in sources:
            found = origin / source.lstrip("/")
            place = self.within(root, target, workdir)
            place = place / found.name if into_folder and found.is_file() else place
            place.parent.mkdir(parents=True, exist_ok=True)
            if found.is_file():
                shutil.copy2(found, place)
            else:
                ignore = None if "from" in step.flags else self.ignore
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, ignore=ignore)

    def ignore(self, folder: str, names: list[str]) -> set[str]:
        base = Path(folder).relative_to(self.context)
        return {name for name in names if ignored((base / name).as_posix(), self.patterns)}

    def run(self, step: Instruction, root: Path, workdir: str) -> None:
        """The command itself, with the image's folders as folders below the root; ``chown`` needs no root's rights."""
        command = step.rest
        for folder in IMAGE_FOLDERS:
            command = re.sub(rf"(?<![\w/]){re.escape(folder)}\b", f"{root}{folder}", command)
        command = f"chown() {{ :; }}; set -e; {command}"
        python = Path(sys.executable).parent  # the image's own `python`, as it were
        environment = os.environ | {"PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run(["sh", "-c", command], cwd=self.within(root, workdir), env=environment, check=True)
