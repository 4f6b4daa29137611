"""A real Prometheus and promtool: from PATH, or out of Debian's package as ``make prometheus`` unpacks it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

UNPACKED = Path(__file__).resolve().parents[2] / ".tools" / "prometheus" / "usr" / "bin"


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=str(UNPACKED))


PROMETHEUS, PROMTOOL = find("prometheus"), find("promtool")
WHERE = "`make prometheus` brings it (Debian's package prometheus)"
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason=f"no prometheus: {WHERE}")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=f"no promtool: {WHERE}")


class Prometheus:
    """A running Prometheus, asked over its HTTP interface."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer; a refusal raises HTTPError."""
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, promql: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=promql)["result"]
        return found

    def value(self, promql: str) -> float | None:
        """The value of the only series of a result, None where there is none."""
        found = self.query(promql)
        return float(found[0]["value"][1]) if len(found) == 1 else None


@contextmanager
def running(configuration: str, folder: Path) -> Iterator[Prometheus]:
    """Start Prometheus on loopback with a configuration file's text; stop it at the end."""
    (folder / "prometheus.yaml").write_text(configuration)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [str(PROMETHEUS), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log) as process,
    ):
        try:
            prometheus = Prometheus(f"http://{address}")
            _wait_ready(prometheus, process, folder / "log")
            yield prometheus
        finally:
            process.terminate()


def _wait_ready(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
