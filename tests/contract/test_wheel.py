"""What a wheel carries beside the packages, and that it is found in either layout."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from songstarter import shipped
from songstarter.errors import MissingLibrary

ROOT = Path(__file__).parents[2]


def test_a_wheel_carries_every_file_that_triton_reads_and_the_embedded_checkpoint() -> None:
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    patterns = (
        "model_repository/*/config.pbtxt",
        "model_repository/*/1/*.py",
        "backends/*/*.py",
        "embedded/*.json",
        "embedded/*.safetensors",
    )
    needed = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    assert carried["force-include"] == {path: f"songstarter/{path}" for path in needed}


@pytest.mark.parametrize("root", ["site/songstarter", "site"])
def test_a_shipped_file_is_found_inside_the_package_and_beside_it(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "site" / "songstarter")
    (tmp_path / root / "model_repository").mkdir(parents=True)
    assert shipped.shipped("model_repository") == tmp_path / root / "model_repository"


def test_a_file_that_was_not_shipped_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path)
    with pytest.raises(MissingLibrary, match="model_repository is neither in the package songstarter nor beside it"):
        shipped.shipped("model_repository")
