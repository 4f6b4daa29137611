"""The compose files: of the published form, confined, and with the files that they mount."""

from __future__ import annotations

import argparse
import json
import re
from importlib import resources

import jsonschema
import pytest
import yaml
from dockerfiles import parse
from manifests import CHART, DEPLOY, ROOT, Object

from export import cli as export_cli
from export.linear import FORMS
from songstarter.server import cli
from songstarter.server.server import GRACE
from songstarter.settings import parameters

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
GPU = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
SERVICES: Object = COMPOSE["services"]
# As compose merges the two: lists and texts of the second file replace those of the first.
ON_GPU: Object = {
    name: {**service, **changed, "environment": {**service.get("environment", {}), **changed.get("environment", {})}}
    for name, service in SERVICES.items()
    for changed in [GPU["services"].get(name, {})]
}
VARIABLE_IN = re.compile(r"\$\{(\w+):-([^}]*)\}")
CHOICES: list[dict[str, str]] = [{}, {"PRECISION": "fp16"}, {"CHECKPOINT": "nateraw/musicgen-songstarter-v0.2"}]


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


@pytest.mark.parametrize("services", [SERVICES, ON_GPU], ids=["compose", "gpu"])
def test_the_longest_song_ends_before_the_container_is_killed(services: Object) -> None:
    """At the slowest that the chart has by default."""
    asked, server = understood(services, "songstarter"), services["songstarter"]
    slowest = yaml.safe_load((CHART / "values.yaml").read_text())["server"]["slowestSpeed"]
    settings = dict(asked.set)
    for model in ("songstarter", "songstarter_stream"):
        assert asked.exit_timeout > float(settings[f"{model}.max_duration"]) / slowest
    assert asked.exit_timeout + GRACE < int(server["stop_grace_period"].removesuffix("s"))


@pytest.mark.parametrize("services", [SERVICES, ON_GPU], ids=["compose", "gpu"])
@pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: "-".join(chosen.values()) or "default")
def test_the_server_serves_what_was_exported(services: Object, chosen: dict[str, str]) -> None:
    export, server = understood(services, "export", chosen), understood(services, "songstarter", chosen)
    assert server.repository == export.into
    assert filled(services["songstarter"]["environment"]["PROBE_REPOSITORY"], chosen) == str(export.into)
    assert (export.precision, export.device) in FORMS
    for model, parameter in (name.split(".") for name, _ in server.set):
        assert parameter in parameters(ROOT / "model_repository", model)


def test_what_is_exported_otherwise_goes_into_another_folder_and_what_stands_is_left_alone() -> None:
    exports = [understood(services, "export", chosen) for services in (SERVICES, ON_GPU) for chosen in CHOICES]
    assert all(export.if_needed for export in exports)
    assert len({export.into for export in exports}) == len(exports)


def test_another_version_exports_into_another_folder() -> None:
    """An exported repository carries the models' Python code."""
    for services in (SERVICES, ON_GPU):
        version = services["export"]["image"].split(":")[1]
        assert understood(services, "export").into.is_relative_to(f"/models/{version}")


def test_slots_and_precision_are_chosen_in_the_environment() -> None:
    assert understood(SERVICES, "export").precision == "int8_kv8"
    assert understood(ON_GPU, "export").precision == "fp16_kv8"
    assert dict(understood(SERVICES, "songstarter").set)["decoder.slots"] == "16"
    assert dict(understood(SERVICES, "songstarter", {"SLOTS": "4"}).set)["decoder.slots"] == "4"


def test_every_variable_is_explained() -> None:
    texts = [(DEPLOY / name).read_text() for name in ("compose.yaml", "compose.gpu.yaml")]
    head = texts[0].split("name: songstarter")[0]
    assert {name for text in texts for name in VARIABLE_IN.findall(text) if name[0] not in head} == set()


def understood(services: Object, name: str, chosen: dict[str, str] | None = None) -> argparse.Namespace:
    """What a service's program makes of its command."""
    verb, *arguments = [filled(argument, chosen or {}) for argument in services[name]["command"]]
    parser = argparse.ArgumentParser()
    {"serve": cli, "export": export_cli}[verb].configure(parser)
    return parser.parse_args(arguments)


def filled(text: str, chosen: dict[str, str]) -> str:
    """With the variables' values, as compose fills them in."""
    return VARIABLE_IN.sub(lambda match: chosen.get(match[1]) or match[2], text)


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["songstarter:8002"]}]
    assert job["job_name"] == "songstarter"  # what the rules ask for
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert provisioned["datasources"][0]["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/songstarter.yaml").read_text())["providers"]
    mounts = SERVICES["grafana"]["volumes"]
    assert any(mount.split(":")[1] == f"{provider['options']['path']}/songstarter.json" for mount in mounts)
