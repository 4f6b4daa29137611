"""The doorways: each foreign dependency is imported where the architecture says, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("songstarter", "client", "export", "model_repository", "backends", "examples")

DOORWAYS: dict[str, tuple[str, ...]] = {
    "torch": ("export/",),
    "transformers": ("export/",),
    "onnx": ("export/",),
    "torchaudio": (),
    "encodec": (),
    "onnxruntime": ("songstarter/stages/session.py", "backends/onnxruntime/"),
    "triton_python_backend_utils": ("model_repository/", "backends/onnxruntime/"),
    "tritonclient": ("client/songstarter_client/",),
    "grpc": ("client/songstarter_client/over_grpc.py",),
    "aiohttp": ("client/songstarter_client/over_http.py",),
    "tokenizers": ("songstarter/faces/conditioning.py", "export/"),
    "soundfile": ("songstarter/audio_file.py", "songstarter/audio_stream.py"),
    "soxr": ("songstarter/resample.py",),
    "scipy": ("songstarter/loudness.py",),
}
# Imports run one way; what stands on the left must not know what stands on the right.
BLIND: dict[str, tuple[str, ...]] = {
    "songstarter/stages/": ("songstarter.engine", "songstarter.faces", "songstarter.server"),
    "songstarter/engine/": ("songstarter.faces", "songstarter.server"),
    "songstarter/faces/": ("songstarter.engine", "songstarter.server", "songstarter.stages"),
    "songstarter/": ("songstarter_client", "export"),
    "export/": ("songstarter.engine", "songstarter.faces", "songstarter.server"),
    "client/": ("songstarter.engine", "songstarter.faces", "songstarter.server", "songstarter.stages"),
}


def sources() -> list[Path]:
    return sorted(path for top in SHIPPED for path in (ROOT / top).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("dependency", DOORWAYS)
def test_a_dependency_is_imported_at_its_doorway_alone(dependency: str) -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if any(name.split(".")[0] == dependency for name in imported(path))
    ]
    strangers = [user for user in users if not user.startswith(DOORWAYS[dependency])]
    assert strangers == []
    assert users or not DOORWAYS[dependency], f"{dependency} is not used any more: remove its row"


@pytest.mark.parametrize("place", BLIND)
def test_imports_run_one_way(place: str) -> None:
    wrong = [
        (path.relative_to(ROOT).as_posix(), name)
        for path in sources()
        for name in imported(path)
        if path.relative_to(ROOT).as_posix().startswith(place) and name.startswith(BLIND[place])
    ]
    assert wrong == []


def test_triton_models_are_thin() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / "model_repository").glob("*/1/model.py")}
    assert len(lengths) == 3
    assert all(length <= 85 for length in lengths.values()), lengths
