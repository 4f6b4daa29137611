"""Which compiled libraries are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from songstarter.stages.native.compile import DECODER, sources_digest
from songstarter.stages.native.processor import _of_these_sources, instruction_set

INSTRUCTIONS = instruction_set(DECODER)
pytestmark = pytest.mark.skipif(INSTRUCTIONS is None, reason="not compiled, or made for other processors")


def altered(tmp_path: Path, found: bytes, written: bytes) -> Path:
    """A copy of the decoder's library with some of its bytes changed."""
    assert INSTRUCTIONS is not None
    contents = INSTRUCTIONS.library(DECODER).read_bytes()
    assert found in contents
    library = tmp_path / "decoder.so"
    library.write_bytes(contents.replace(found, written))
    return library


def test_a_library_of_these_sources_is_used(tmp_path: Path) -> None:
    assert _of_these_sources(altered(tmp_path, b"", b""))


@pytest.mark.parametrize(
    ("found", "written"),
    [(sources_digest().encode(), b"0" * 64), (b"songstarter_sources", b"songstarter_nothing")],
    ids=["older", "older than the question"],
)
def test_a_library_of_other_sources_is_not_used_and_the_log_says_what_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], found: bytes, written: bytes
) -> None:
    assert not _of_these_sources(altered(tmp_path, found, written))
    line = json.loads(capfd.readouterr().out)
    assert line["event"] == "library_stale"
    assert "songstarter.stages.native.compile" in line["compile_again_with"]


def test_what_is_not_there_is_not_used_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not _of_these_sources(tmp_path / "decoder.so")
    assert capfd.readouterr().out == ""
