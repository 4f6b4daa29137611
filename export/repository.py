"""A model repository under construction beside the one that it will become."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from songstarter.checkpoint import MANIFEST, Checkpoint
from songstarter.errors import CheckpointError
from songstarter.shipped import shipped

VERSION = "1"
SKELETON = shipped("model_repository")  # what Triton reads beside the graphs
CONFIG, CODE = "config.pbtxt", "model.py"
TENSOR = re.compile(r'\bname:\s*"(\w+)"')


def graph_folder(repository: Path, model: str) -> Path:
    """Where Triton looks for a model's files; made if it is missing."""
    folder = repository / model / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Staging:
    """A folder that becomes part of the repository when it is installed, and is gone afterwards in any case."""

    def __init__(self, into: Path) -> None:
        self._into = into.resolve()

    def __enter__(self) -> Self:
        try:
            self._into.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(dir=self._into.parent, prefix=f".{self._into.name}-"))
        except OSError as error:
            raise CheckpointError(f"cannot write to {self._into} ({error.strerror})") from None
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def install(self, models: Iterable[str]) -> None:
        """Move every file into place, the manifest last: half an export is never taken for a whole one.

        Raises:
            CheckpointError: a configuration that stands there has other tensors than its model's code has now.
        """
        models = tuple(models)
        for model in models:
            self._check_kept(self._into / model / CONFIG, SKELETON / model / CONFIG)
        self._remove_previous()
        for model in models:
            self._copy_skeleton(model)
        staged = [path for path in self.folder.rglob("*") if path.is_file()]
        for path in sorted(staged, key=lambda path: path.name == MANIFEST):
            target = self._into / path.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)

    def _remove_previous(self) -> None:
        try:
            files = Checkpoint.read(self._into).digests
        except CheckpointError:
            files = {}
        for file in (MANIFEST, *files):
            (self._into / file).unlink(missing_ok=True)

    @staticmethod
    def _check_kept(kept: Path, ours: Path) -> None:
        if not kept.exists():
            return
        found, expected = (set(TENSOR.findall(path.read_text())) for path in (kept, ours))
        if found != expected:
            differing = ", ".join(sorted(found ^ expected))
            raise CheckpointError(
                f"{kept} is of another version (it differs in {differing}): put it aside, export again"
            )

    def _copy_skeleton(self, model: str) -> None:
        """Bring a model's configuration, unless the operator has one, and its code; they may stand already."""
        if self._into == SKELETON:
            return
        source, target = SKELETON / model, self._into / model
        graph_folder(self._into, model)
        if not (target / CONFIG).exists():
            shutil.copyfile(source / CONFIG, target / CONFIG)
        if (source / VERSION / CODE).is_file():
            shutil.copyfile(source / VERSION / CODE, target / VERSION / CODE)
