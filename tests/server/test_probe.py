"""What containers and pods are asked by: exit code 0 from a server whose models answer, one sentence from any other."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

from songstarter.contract import DECODER, STREAM_MODEL
from songstarter.key import Key
from songstarter.server.exposure import Exposure
from songstarter.server.launch import Ports
from songstarter.server.server import Server

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "image" / "probe.py"


@pytest.fixture
def probe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("probe", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.triton
@pytest.mark.parametrize("which", [[], ["--every-model"]])
def test_a_server_whose_models_answer_is_well(probe: ModuleType, songs: Server, which: list[str]) -> None:
    where = [f"--port={songs.ports.http}", f"--repository={songs.repository}"]
    assert probe.main([*where, *which]) == 0


@pytest.mark.triton
def test_a_server_elsewhere_with_a_key_is_asked_with_it(
    probe: ModuleType, embedded_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key("a-key-of-20-letters.")
    monkeypatch.setenv("PROBE_HOST", "127.0.0.3")
    with Server(embedded_repository, Ports.free(), tmp_path, exposure=Exposure("127.0.0.3", key)) as server:
        where = [f"--port={server.ports.http}", f"--repository={server.repository}", "--every-model"]
        assert probe.main(where) == 1
        monkeypatch.setenv("SONGSTARTER_KEY", key.text)
        assert probe.main(where) == 0


@pytest.mark.triton
@pytest.mark.parametrize("model", [DECODER, STREAM_MODEL])
def test_a_model_that_hangs_is_named(
    probe: ModuleType, embedded_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    """A process that was stopped must not go on: Triton 24.10 ends then."""
    with Server(embedded_repository, Ports.free(), tmp_path) as server:
        where = [f"--port={server.ports.http}", f"--repository={server.repository}", "--every-model"]
        assert probe.main(where) == 0
        os.kill(server.stubs()[model][0], signal.SIGSTOP)
        assert probe.main([*where, "--timeout=5"]) == 1
        assert f"probe: {model} " in capsys.readouterr().err
        server.kill()


def test_where_nothing_listens_nothing_is_well(
    probe: ModuleType, embedded_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = Ports.free().http
    assert probe.main([f"--port={port}", f"--repository={embedded_repository}"]) == 1
    assert f"Triton on port {port} is not ready" in capsys.readouterr().err


def test_without_a_manifest_it_says_so(probe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([f"--repository={tmp_path}"]) == 1
    assert "no manifest.json" in capsys.readouterr().err
