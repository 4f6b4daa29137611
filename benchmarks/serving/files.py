"""The document and the page as files, written anew after each load: a run that dies leaves what it had measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.serving.findings import Findings
from benchmarks.serving.page import page
from benchmarks.serving.plan import Plan
from benchmarks.serving.report import PACKAGES, document
from songstarter.errors import SongstarterError


class NotWritten(SongstarterError):
    """A file of the run's figures could not be written."""


@dataclass(frozen=True)
class Files:
    """Where the figures go; what was not asked for is None."""

    json: Path | None = None
    html: Path | None = None

    def write(self, plan: Plan, findings: Findings) -> None:
        """Replace both by what was found so far.

        Raises:
            NotWritten: the message says which, and why.
        """
        if self.json:
            _put(self.json, text(plan, findings) + "\n")
        if self.html:
            _put(self.html, page(plan, findings, machine.facts(PACKAGES)))


def text(plan: Plan, findings: Findings) -> str:
    """The document in one line."""
    return json.dumps(document(plan, findings))


def _put(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe or a device stays what it is
            path.write_text(content)
        else:
            _replace(path.resolve(), content)
    except OSError as problem:
        raise NotWritten(f"{path} was not written: {problem.strerror}") from None


def _replace(path: Path, content: str) -> None:
    """At once, so that who reads it meanwhile, or after a crash, finds a whole one."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
