"""values.schema.json: what is right passes, what is wrong does not."""

from __future__ import annotations

import copy
import json
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml
from manifests import CHART, ROOT, Object, needs_helm, rendered

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
ARCHIVE = {"url": "https://models.example.com/a.tar", "sha256": "0" * 64}


def with_values(changes: Object) -> Object:
    """The defaults with some values changed, as helm merges them."""
    return merge(copy.deepcopy(DEFAULTS), changes)


def merge(values: Object, changes: Object) -> Object:
    for key, value in changes.items():
        values[key] = merge(values[key], value) if isinstance(value, dict) and key in values else value
    return values


def complaints(values: Object) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(values)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_every_default_value_has_a_place_in_the_schema() -> None:
    assert complaints(DEFAULTS) == []
    assert set(DEFAULTS) == set(SCHEMA["properties"]) - {"global"}


@pytest.mark.parametrize("path", sorted(CHART.parent.glob("*-values.yaml")), ids=lambda path: path.stem)
def test_the_values_of_the_plain_manifests_are_right(path: Any) -> None:
    assert complaints(with_values(yaml.safe_load(path.read_text()))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": {"count": 0}, "modelStore": {"device": "cpu", "precision": "int8_kv8"}},
        {"modelStore": {"device": "cuda", "precision": "fp16_kv8"}},
        {"modelStore": {"kind": "archive", "archive": ARCHIVE}},
        {"image": {"digest": f"sha256:{'0' * 64}"}},
        {"autoscaling": {"kind": "keda", "minReplicas": 0, "keda": {"arrivalsQuery": "sum(x)"}}},
        {"server": {"settings": {"decoder": {"slots": 8}, "songstarter": {"max_duration": 90.5}}}},
        {"podDisruptionBudget": {"maxUnavailable": "25%"}},
        {"networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}},
    ],
)
def test_right_values_pass(changes: Object) -> None:
    assert complaints(with_values(changes)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"repicas": 2},
        {"image": {"tag": "latest"}},
        {"image": {"digest": "sha256:short"}},
        {"gpu": {"count": 2}},
        {"gpu": {"count": 0}},  # while the decoder is exported for CUDA
        {"modelStore": {"kind": "archive"}},
        {"modelStore": {"kind": "archive", "archive": {**ARCHIVE, "sha256": ""}}},
        {"modelStore": {"kind": "archive", "archive": {**ARCHIVE, "url": "http://models.example.com/a.tar"}}},
        {"modelStore": {"precision": "fp8"}},
        {"autoscaling": {"kind": ["hpa", "keda"]}},
        {"autoscaling": {"kind": "both"}},
        {"autoscaling": {"kind": "hpa", "minReplicas": 0}},
        {"autoscaling": {"kind": "keda", "minReplicas": 0}},  # nothing would start the first pod
        {"autoscaling": {"keda": {"fallbackReplicas": -1}}},
        {"autoscaling": {"scrapedElsewhere": "yes"}},
        {"autoscaling": {"scaleDownSeconds": 30}},
        {"autoscaling": {"slotsInUse": 1.5}},
        {"server": {"ports": {"http": 80}}},
        {"server": {"drainSeconds": 0}},
        {"server": {"extraArgs": ["verbose"]}},
        {"server": {"settings": {"decoder": {"slots": 0}}}},
        {"server": {"settings": {"decoder": {"slotz": 8}}}},
        {"server": {"settings": {"decoder.slots": 8}}},
        {"server": {"settings": {"text_encoder": {"intra_op_thread_count": 2}}}},
        {"sharedMemory": "2GB"},
        {"resources": {"limits": {"memory": 16}}},
        {"service": {"type": "ExternalName"}},
        {"networkPolicy": {"clients": [{}]}},
    ],
)
def test_wrong_values_do_not(changes: Object) -> None:
    assert complaints(with_values(changes)) != []


@needs_helm
@pytest.mark.parametrize("setting", ["repicas=2", "gpu.count=0", "autoscaling.kind=both"])
def test_helm_itself_refuses_them(setting: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(setting)
    assert "values don't meet the specifications of the schema" in refused.value.stderr


def test_the_schema_knows_every_setting_of_the_server() -> None:
    from songstarter.settings import MODELS, parameters

    properties = SCHEMA["properties"]["server"]["properties"]["settings"]["properties"]
    shared = SCHEMA["definitions"]["publicModel"]["properties"]
    known = {model: set(properties[model].get("properties", shared)) for model in properties}
    assert known == {model: set(parameters(ROOT / "model_repository", model)) for model in MODELS}


@needs_helm
@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_an_autoscaler_without_metrics_is_refused_with_a_sentence(kind: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(f"autoscaling.kind={kind}")
    assert f"autoscaling.kind is {kind}, which needs the pods' metrics in Prometheus" in refused.value.stderr
    assert "set monitoring.serviceMonitor=true, or autoscaling.scrapedElsewhere=true" in refused.value.stderr
    assert rendered(f"autoscaling.kind={kind}", "autoscaling.scrapedElsewhere=true")


@pytest.mark.parametrize("name", ["precision", "device"])
def test_the_schema_knows_every_form_of_an_export(name: str) -> None:
    from typing import get_args

    from songstarter import checkpoint

    forms = get_args({"precision": checkpoint.Precision, "device": checkpoint.Device}[name])
    assert SCHEMA["properties"]["modelStore"]["properties"][name]["enum"] == list(forms)
