"""Every metric that rules, dashboard and autoscalers may use, and where each is used.

The one table until a test can ask a running server: ``missing`` then takes what was scraped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser
import yaml
from manifests import DEPLOY, Object, dashboard, one, plain, rules

OUTCOMES_OF_TAKES = ("finished", "failed", "cancelled", "refused")
OUTCOMES_OF_REQUESTS = ("answered", "invalid", "unavailable", "failed", "cancelled", "canary")
ANY = ()  # of a label's values

# name -> its own labels, with the values that each may have
GAUGES: dict[str, dict[str, tuple[str, ...]]] = {
    "songstarter_slots": {},
    "songstarter_slots_in_use": {},
    "songstarter_slot_seconds_total": {},
    "songstarter_takes_waiting": {},
    "songstarter_kv_memory_bytes": {},
    "songstarter_requests_in_flight": {},
    "songstarter_info": {"version": ANY, "checkpoint": ANY, "precision": ANY, "device": ("cpu", "cuda")},
}
COUNTERS: dict[str, dict[str, tuple[str, ...]]] = {
    "songstarter_steps_total": {},
    "songstarter_takes_total": {"outcome": OUTCOMES_OF_TAKES},
    "songstarter_requests_total": {"outcome": OUTCOMES_OF_REQUESTS},
    "songstarter_audio_seconds_total": {},
    "songstarter_tokens_total": {},
    "songstarter_kept_positions_total": {},
    "songstarter_filled_positions_total": {},
}
HISTOGRAMS = (
    "songstarter_step_seconds",
    "songstarter_fill_seconds",
    "songstarter_request_seconds",
    "songstarter_first_audio_seconds",
)
OURS = GAUGES | COUNTERS | {f"{name}_bucket": {"le": ANY} for name in HISTOGRAMS}

# Triton's own: on every server, and on one with a GPU.
TRITON: dict[str, dict[str, tuple[str, ...]]] = {
    "nv_inference_request_success": {"model": ANY},
    "nv_inference_request_failure": {"model": ANY, "reason": ("OTHER", "BACKEND", "CANCELED", "REJECTED")},
    "nv_inference_count": {"model": ANY},
    "nv_inference_exec_count": {"model": ANY},
    "nv_inference_queue_duration_us": {"model": ANY},
    "nv_cpu_utilization": {},
    "nv_cpu_memory_used_bytes": {},
}
TRITON_ON_GPU: dict[str, dict[str, tuple[str, ...]]] = {
    "nv_gpu_utilization": {"gpu_uuid": ANY},
    "nv_gpu_memory_total_bytes": {"gpu_uuid": ANY},
    "nv_gpu_memory_used_bytes": {"gpu_uuid": ANY},
}
# Not a server's: Prometheus' own, the kubelet's, and an example of what an ingress controller counts.
ELSEWHERE: dict[str, dict[str, tuple[str, ...]]] = {
    "up": {"job": ("songstarter",)},
    "container_memory_working_set_bytes": {"container": ("server",)},
    "nginx_ingress_controller_requests": {"exported_namespace": ANY, "exported_service": ANY},
}
KNOWN = OURS | TRITON | TRITON_ON_GPU | ELSEWHERE
SCRAPER_S = {"namespace", "instance", "service", "job", "pod"}  # labels that every series gets when it is scraped

GRAFANA = {"$__rate_interval": "5m", "$namespace": ".*", "$instance": ".*"}


def missing(scraped: set[str], *, gpu: bool) -> dict[str, list[str]]:
    """Metrics that are used and were not among the names scraped from a server, with where they are used."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    without = recorded | set(ELSEWHERE) | (set() if gpu else set(TRITON_ON_GPU))
    return {name: places for name, places in used().items() if name not in scraped | without}


def used() -> dict[str, list[str]]:
    """Every metric that any query names, and where."""
    found: dict[str, list[str]] = {}
    for place, query in queries():
        for selector in selectors(promql_parser.parse(query)):
            found.setdefault(selector.name, []).append(place)
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Where each query stands, and the query."""
    for rule in rules():
        yield f"rule {rule.get('record') or rule['alert']}", rule["expr"]
    for title, target in targets(dashboard()):
        yield f"dashboard: {title}", without_variables(target)
    for trigger in one(plain(), "ScaledObject")["spec"]["triggers"]:
        yield f"ScaledObject: {trigger['name']}", trigger["metadata"]["query"]
    for rule in yaml.safe_load((DEPLOY / "prometheus" / "adapter-values.yaml").read_text())["rules"]["custom"]:
        yield f"adapter: {rule['name']['as']}", rule["seriesQuery"]
        yield f"adapter: {rule['name']['as']}", filled(rule["metricsQuery"])


def targets(board: Object) -> Iterator[tuple[str, str]]:
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in board["templating"]["list"]:
        asked = variable["query"]["query"] if variable["type"] == "query" else ""
        if match := re.fullmatch(r"label_values\((.+), \w+\)", asked):
            yield f"variable {variable['name']}", match[1]


def without_variables(query: str) -> str:
    for name, value in GRAFANA.items():
        query = query.replace(name, value)
    return query


def filled(template: str) -> str:
    """A query of prometheus-adapter's, as it asks it."""
    return template.replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="songstarter"')


def selectors(expression: object) -> Iterator[promql_parser.VectorSelector]:
    """The series that an expression reads, at any depth."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
        return
    parts = [getattr(expression, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param")]
    for part in [*parts, *getattr(expression, "args", [])]:
        if part is not None:
            yield from selectors(part)
