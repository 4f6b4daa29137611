"""What Triton itself counts: queue time, compute time and batch sizes of every model, between two moments."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songstarter.errors import SongstarterError
from songstarter.key import Key
from songstarter_client.address import Address
from songstarter_client.trust import Trust

TIMEOUT = 5.0
NANOSECONDS_PER_MS = 1e6
# What Triton may count more or less than its caller: a request at an edge, and test requests every few seconds.
SLACK, SLACK_SHARE = 1, 0.05
SECONDS_OF_TEST_REQUESTS = 5.0

Snapshot = Mapping[str, Mapping[str, Any]]  # a model's statistics by its name


class NoStatistics(SongstarterError):
    """Triton's HTTP port does not answer, so that queue times and batch sizes stay unknown."""


@dataclass(frozen=True)
class StageFigures:
    """One model over a while; compute time is that of one execution, queue time that of one request."""

    model: str
    requests: int
    failed: int
    executions: int
    mean_batch: float
    batches: dict[int, int]  # executions by batch size
    queue_ms: float
    compute_ms: float
    busy_share: float  # seconds of computing per second, of all its instances


@dataclass(frozen=True)
class Stretch:
    """The counters before and after so many seconds."""

    before: Snapshot
    after: Snapshot
    seconds: float

    def grown(self, model: str, *path: str) -> int:
        return _at(self.after[model], path) - _at(self.before.get(model, {}), path)

    def batches(self, model: str, key: str) -> Counter[int]:
        """Executions, or nanoseconds of them, by batch size."""
        return _by_size(self.after[model], key) - _by_size(self.before.get(model, {}), key)


class TritonStatistics:
    """The statistics of the server whose HTTP port is ``address``; its key, where it asks for one.

    ``ca_file``: who signs its certificate, as for the client.
    """

    def __init__(self, address: Address, key: Key | None = None, ca_file: Path | None = None) -> None:
        self._address = address
        self._trust = Trust.in_file(ca_file) if address.secure else None
        self._headers = key.http_headers if key else {}

    def snapshot(self) -> Snapshot:
        """Every loaded model's counters as they stand.

        Raises:
            NoStatistics: nobody answers there, or not as Triton does.
        """
        statistics = self._get("/v2/models/stats")
        return {model["name"]: model for model in statistics.get("model_stats", [])}

    def server(self) -> str:
        """The server's name and version."""
        metadata = self._get("/v2")
        return f"{metadata.get('name', '?')} {metadata.get('version', '?')}"

    def _get(self, path: str) -> dict[str, Any]:
        connection = self._connection()
        try:
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.client.OK:
                raise NoStatistics(f"{self._address.url}{path} answered with status {answer.status}")
            found: dict[str, Any] = json.loads(body)
            return found
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoStatistics(f"no statistics from {self._address.url}: {type(error).__name__}: {error}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._trust:
            return http.client.HTTPSConnection(str(self._address), timeout=TIMEOUT, context=self._trust.context)
        return http.client.HTTPConnection(str(self._address), timeout=TIMEOUT)


def doubt(found: Sequence[StageFigures], model: str, answered: int, sent: int, seconds: float) -> str | None:
    """Why the figures may be those of other requests than ours, which went to ``model``; None if they fit.

    Behind one address may stand several servers: a song is made by one of them, the statistics come from another.
    """
    counted = sum(stage.requests + stage.failed for stage in found if stage.model == model)
    slack = SLACK + SLACK_SHARE * sent
    if counted < answered - slack:
        return f"Triton counted {counted} requests of {model}, {answered} were answered: ask one server, not several"
    if counted > sent + slack + seconds / SECONDS_OF_TEST_REQUESTS:
        return f"Triton counted {counted} requests of {model}, {sent} were sent: others use the server too"
    return None


def stage_figures(stretches: Sequence[Stretch]) -> list[StageFigures]:
    """What each model did in all stretches together; idle models are left out."""
    models = sorted({model for stretch in stretches for model in stretch.after})
    figures = [_of_model(model, stretches) for model in models]
    return [one for one in figures if one.requests or one.failed]


def _of_model(model: str, stretches: Sequence[Stretch]) -> StageFigures:
    def grown(*path: str) -> int:
        return sum(stretch.grown(model, *path) for stretch in stretches)

    executions = grown("execution_count")
    requests = grown("inference_stats", "queue", "count")
    busy = sum(sum(stretch.batches(model, "ns").values()) for stretch in stretches)
    batches = sum((stretch.batches(model, "count") for stretch in stretches), Counter[int]())
    return StageFigures(
        model=model,
        requests=requests,
        failed=grown("inference_stats", "fail", "count"),
        executions=executions,
        mean_batch=grown("inference_count") / executions if executions else 0.0,
        batches=dict(sorted(batches.items())),
        queue_ms=grown("inference_stats", "queue", "ns") / NANOSECONDS_PER_MS / max(requests, 1),
        compute_ms=busy / NANOSECONDS_PER_MS / max(executions, 1),
        busy_share=busy / NANOSECONDS_PER_MS / 1e3 / sum(stretch.seconds for stretch in stretches),
    )


def _at(statistics: Mapping[str, Any], path: Sequence[str]) -> int:
    value: Any = statistics
    for key in path:
        value = value.get(key, {})
    return int(value or 0)


def _by_size(statistics: Mapping[str, Any], key: str) -> Counter[int]:
    return Counter(
        {
            int(batch["batch_size"]): int(batch["compute_infer"].get(key, 0))
            for batch in statistics.get("batch_stats", [])
        }
    )
