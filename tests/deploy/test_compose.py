"""The compose files: of the published form, confined, and with the files that they mount."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest
import yaml
from dockerfiles import parse
from manifests import DEPLOY, ROOT, Object

from songstarter.server.server import GRACE

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
GPU = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
SERVICES: Object = COMPOSE["services"]


@pytest.mark.parametrize("document", [COMPOSE, GPU], ids=["compose", "gpu"])
def test_it_has_the_form_of_the_compose_specification(document: Object) -> None:
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    jsonschema.validate(document, schema)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert ":latest" not in service["image"]
    assert ":" in service["image"]


@pytest.mark.parametrize("document", [COMPOSE, GPU], ids=["compose", "gpu"])
def test_what_is_built_is_a_stage_of_a_dockerfile(document: Object) -> None:
    builds = [service["build"] for service in document["services"].values() if "build" in service]
    assert builds
    for build in builds:
        assert (DEPLOY / build["context"]).resolve() == ROOT
        assert build["target"] in parse(ROOT / build["dockerfile"])


def test_what_is_mounted_exists() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith(".")]
    assert len(files) == 4
    assert [file for file in files if not (DEPLOY / file).exists()] == []
    assert {mount for mount in mounts if not mount.startswith(".")} == set(COMPOSE["volumes"])


def test_the_longest_song_ends_before_the_container_is_killed() -> None:
    server = SERVICES["songstarter"]
    (song,) = [int(arg.split("=")[1]) for arg in server["command"] if arg.startswith("--exit-timeout=")]
    assert song + GRACE < int(server["stop_grace_period"].removesuffix("s"))


def test_the_server_serves_what_was_exported() -> None:
    (into,) = [arg.split("=")[1] for arg in SERVICES["export"]["command"] if arg.startswith("--into=")]
    assert f"--repository={into}" in SERVICES["songstarter"]["command"]
    assert SERVICES["songstarter"]["environment"]["PROBE_REPOSITORY"] == into


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["songstarter:8002"]}]
    assert job["job_name"] == "songstarter"  # what the rules ask for
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert provisioned["datasources"][0]["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/songstarter.yaml").read_text())["providers"]
    mounts = SERVICES["grafana"]["volumes"]
    assert any(mount.split(":")[1] == f"{provider['options']['path']}/songstarter.json" for mount in mounts)
