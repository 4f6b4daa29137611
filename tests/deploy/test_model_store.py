"""A pod gets whole models that are the ones it asked for, or one sentence about why not."""

from __future__ import annotations

import hashlib
import json
import tarfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from manifests import script
from tiny_checkpoint import CHECKPOINT

store = script("image/model_store.py")
UNPACKS = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="Python before 3.11.4 cannot unpack safely; the images have a later one"
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one exported file, and code that no digest covers."""
    folder = tmp_path / "exported"
    (folder / "decoder" / "1").mkdir(parents=True)
    (folder / "decoder" / "1" / "model.py").write_text("code")
    (folder / "decoder" / "1" / "decoder.onnx").write_bytes(b"graph")
    digests = {"decoder/1/decoder.onnx": hashlib.sha256(b"graph").hexdigest()}
    replace(CHECKPOINT, digests=digests).write(folder)
    return folder


def packed(repository: Path) -> tuple[str, str]:
    """A tar file of a repository: its URL and its SHA-256."""
    archive = repository.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(repository, ".")
    return archive.as_uri(), hashlib.sha256(archive.read_bytes()).hexdigest()


@UNPACKS
def test_the_archive_that_was_asked_for_is_unpacked(repository: Path, tmp_path: Path) -> None:
    url, sha256 = packed(repository)
    assert store.main(["fetch", url, f"--sha256={sha256}", f"--into={tmp_path / 'served'}"]) == 0
    assert (tmp_path / "served/decoder/1/model.py").read_text() == "code"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".fetch")] == []


@UNPACKS
def test_it_takes_the_place_of_what_stood_there(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "old").touch()
    url, sha256 = packed(repository)
    assert store.main(["fetch", url, f"--sha256={sha256}", f"--into={tmp_path / 'served'}"]) == 0
    assert not (tmp_path / "served" / "old").exists()


def refused(url: str, sha256: str, into: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert store.main(["fetch", url, f"--sha256={sha256}", f"--into={into}"]) == 1
    assert not into.exists()
    assert list(into.parent.glob(".fetch-*")) == []
    return capsys.readouterr().err


def test_another_archive_is_not(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, sha256 = packed(repository)
    (repository / "decoder" / "1" / "model.py").write_text("other code")
    packed(repository)
    assert f"expected is {sha256}: wrong or damaged archive" in refused(url, sha256, tmp_path / "served", capsys)


@UNPACKS
def test_an_altered_graph_is_not_served_though_the_archive_is_right(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "decoder" / "1" / "decoder.onnx").write_bytes(b"hpraG")
    url, sha256 = packed(repository)
    assert "decoder/1/decoder.onnx" in refused(url, sha256, tmp_path / "served", capsys)


@UNPACKS
def test_an_archive_that_reaches_outside_is_not_unpacked(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "outside.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(repository / "manifest.json", "../escaped.json")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert "cannot be unpacked" in refused(archive.as_uri(), sha256, tmp_path / "served", capsys)
    assert not (tmp_path / "escaped.json").exists()


def test_what_is_no_archive_and_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("text")
    sha256 = hashlib.sha256(b"text").hexdigest()
    assert "cannot be unpacked" in refused((tmp_path / "text").as_uri(), sha256, tmp_path / "served", capsys)
    assert "cannot be downloaded" in refused((tmp_path / "none").as_uri(), sha256, tmp_path / "served", capsys)


def test_an_export_under_way_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOOK", 0.05)
    finishing = threading.Timer(0.3, lambda: (tmp_path / "manifest.json").write_text(json.dumps(asdict(CHECKPOINT))))
    started = time.monotonic()
    finishing.start()
    assert store.main(["wait", str(tmp_path), "--seconds=30"]) == 0
    assert time.monotonic() - started >= 0.3


def test_an_export_that_does_not_come_is_not_waited_for_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.main(["wait", str(tmp_path), "--seconds=0.1"]) == 1
    assert "look at the export's log" in capsys.readouterr().err
