"""The log of a server that runs for months."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from songstarter.server.server_log import Echo, ServerLog


def test_a_log_that_has_grown_begins_anew_under_its_writer(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "run" / "server.log")
    with log.fresh() as writer:
        writer.write(b"one\ntwo\n")
        writer.flush()
        log.keep_small(100)
        assert log.lines() == ["one", "two"]
        log.keep_small(7)
        assert log.lines() == []
        writer.write(b"three\n")
        writer.flush()
    assert log.path.read_bytes() == b"three\n"
    assert log.previous.read_bytes() == b"one\ntwo\n"


def test_a_log_that_somebody_took_away_ends_nothing(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "server.log")
    with log.fresh():
        log.path.unlink()
        log.keep_small(0)
    assert not log.path.exists()


def test_what_is_shown_goes_on_after_a_new_beginning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ServerLog(tmp_path / "server.log")
    with log.fresh() as writer:
        echo = Echo(log)
        echo.start()
        writer.write(b"a line of some length\n")
        writer.flush()
        time.sleep(0.5)
        log.keep_small(0)
        time.sleep(0.5)
        writer.write(b"short\n")
        writer.flush()
        time.sleep(0.5)
        echo.stop()
    assert capsys.readouterr().err == "a line of some length\nshort\n"
