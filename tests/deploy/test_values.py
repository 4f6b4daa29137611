"""values.schema.json: what is right passes, what is wrong does not."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml
from manifests import CHART, ROOT, Object, needs_helm, rendered, rules

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
ON_CPU = {"gpu": {"count": 0}, "modelStore": {"device": "cpu", "precision": "int8_kv8"}}
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
        ON_CPU,
        {**ON_CPU, "server": {"settings": {"decoder": {"threads": 4}}}},
        {"server": {"settings": {"decoder": {"slots": 8, "fewest_slots": 8}}}},
        {"modelStore": {"device": "cuda", "precision": "fp16_kv8"}},
        {"modelStore": {"kind": "archive", "archive": ARCHIVE}},
        {"image": {"digest": f"sha256:{'0' * 64}"}},
        {"autoscaling": {"kind": "keda", "minReplicas": 0, "keda": {"arrivalsQuery": "sum(x)"}}},
        {"server": {"settings": {"decoder": {"slots": 8}, "songstarter": {"max_duration": 90.5}}}},
        {"podDisruptionBudget": {"maxUnavailable": "25%"}},
        {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}}},
        {"strategy": {"type": "Recreate"}},
        {"runtimeClassName": "nvidia"},
        {"resources": {"requests": {"cpu": "1500m"}}},
        {"server": {"extraArgs": ["--trace-to=http://collector:4318/v1/traces"]}},
        {"service": {"type": "LoadBalancer"}, "networkPolicy": {"clients": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}},
        {"service": {"type": "NodePort"}, "networkPolicy": {"enabled": False}},
        {"monitoring": {"scrapeInterval": "30s"}},
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
        {"server": {"settings": {"decoder": {"threads": 4}}}},  # of a decoder on a GPU
        {**ON_CPU, "server": {"settings": {"decoder": {"fewest_slots": 4}}}},
        {"server": {"settings": {"decoder.slots": 8}}},
        {"server": {"settings": {"text_encoder": {"intra_op_thread_count": 2}}}},
        {"sharedMemory": "2GB"},
        {"resources": {"limits": {"memory": 16}}},
        {"service": {"type": "ExternalName"}},
        {"networkPolicy": {"clients": [{}]}},
        {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}},
        {"strategy": {"rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}},
        {"strategy": {"type": "Rolling"}},
        {"runtimeClassName": "NVIDIA"},
        {"podDisruptionBudget": {"maxUnavailable": 0}},
        {"podDisruptionBudget": {"maxUnavailable": "0%"}},
        {"server": {"host": "localhost"}},  # pods listen everywhere, or the Service and the probes reach nobody
        {"server": {"slowestSpeed": 0}},
        {"server": {"extraArgs": ["--exit-timeout=60"]}},
        {"server": {"extraArgs": ["--set=decoder.slots=4"]}},
        {"server": {"extraArgs": ["--http-port", "80"]}},
        {"resources": {"requests": {"cpu": "4Gi"}}},
        {"service": {"type": "LoadBalancer"}},  # and nobody from outside may come in
        {"service": {"type": "NodePort"}, "networkPolicy": {"clients": []}},
        {"monitoring": {"scrapeInterval": "31s"}},
        {"monitoring": {"scrapeInterval": "0s"}},
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


# What only a comparison of values finds, and what helm is told about it.
CONTRADICTIONS = {
    "modelStore.volume.accessMode=ReadWriteOnce": "modelStore.volume.accessMode is ReadWriteOnce",
    "modelStore.volume.accessMode=ReadWriteOncePod": "it has to be ReadWriteMany",
    "server.ports.grpc=8000": "server.ports are 8000, 8000 and 8002",
    "server.ports.metrics=8001": "a port each",
    "server.settings.decoder.fewest_slots=17": "fewest_slots is 17",
    "server.settings.decoder.slots=4,server.settings.decoder.fewest_slots=5": "slots, 4",
    "autoscaling.minReplicas=9": "autoscaling.minReplicas is 9, more than maxReplicas, 8",
    "autoscaling.keda.fallbackReplicas=9": "fallbackReplicas is 9, more than maxReplicas, 8",
    "server.settings.songstarter.max_duration=4000": "a song of 4000 seconds at server.slowestSpeed 0.5",
}


@needs_helm
@pytest.mark.parametrize("settings", CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused_with_a_sentence(settings: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(*settings.split(","))
    assert CONTRADICTIONS[settings] in refused.value.stderr


@needs_helm
@pytest.mark.parametrize(
    "settings",
    [
        ("modelStore.export.enabled=false", "modelStore.volume.accessMode=ReadWriteOnce"),
        ("modelStore.volume.existingClaim=mine", "modelStore.volume.accessMode=ReadWriteOnce"),
        ("server.ports.http=9000",),
        ("server.settings.decoder.fewest_slots=16",),
        ("autoscaling.minReplicas=8", "autoscaling.keda.fallbackReplicas=8"),
        ("server.settings.songstarter.max_duration=3585",),
    ],
)
def test_values_that_agree_are_not(settings: tuple[str, ...]) -> None:
    assert rendered(*settings)


def test_the_chart_takes_for_granted_what_the_models_say() -> None:
    from songstarter.settings import parameters

    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    stated = {name: parameters(ROOT / "model_repository", name) for name in ("decoder", "songstarter")}
    taken = dict(re.findall(r'"(\w+)" \| default (\d+)', helpers))
    assert taken == {
        **{name: stated["decoder"][name] for name in ("slots", "fewest_slots")},
        "max_duration": stated["songstarter"]["max_duration"],
    }
    assert parameters(ROOT / "model_repository", "songstarter_stream")["max_duration"] == taken["max_duration"]


def test_the_shortest_rate_of_the_rules_has_four_scrapes_at_least() -> None:
    seconds = {"m": 60, "h": 3600, "d": 86400}
    windows = [
        int(number) * seconds[unit]
        for rule in rules()
        for number, unit in re.findall(r"\[(\d+)([mhd])\]", rule["expr"])
    ]
    assert complaints(with_values({"monitoring": {"scrapeInterval": f"{min(windows) // 4}s"}})) == []
    assert complaints(with_values({"monitoring": {"scrapeInterval": f"{min(windows) // 4 + 1}s"}})) != []


def test_the_schema_knows_what_the_exporter_can_write_for_each_device() -> None:
    from export.linear import FORMS

    properties = SCHEMA["properties"]["modelStore"]["properties"]
    for precision in properties["precision"]["enum"]:
        for device, gpus in (("cpu", 0), ("cuda", 1)):
            values = with_values({"gpu": {"count": gpus}, "modelStore": {"precision": precision, "device": device}})
            assert (complaints(values) == []) == ((precision, device) in FORMS)


@needs_helm
@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_an_autoscaler_without_metrics_is_refused_with_a_sentence(kind: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(f"autoscaling.kind={kind}")
    assert f"autoscaling.kind is {kind}, which needs the pods' metrics in Prometheus" in refused.value.stderr
    assert "set monitoring.podMonitor=true, or autoscaling.scrapedElsewhere=true" in refused.value.stderr
    assert rendered(f"autoscaling.kind={kind}", "autoscaling.scrapedElsewhere=true")


@pytest.mark.parametrize("name", ["precision", "device"])
def test_the_schema_knows_every_form_of_an_export(name: str) -> None:
    from typing import get_args

    from songstarter import checkpoint

    forms = get_args({"precision": checkpoint.Precision, "device": checkpoint.Device}[name])
    assert SCHEMA["properties"]["modelStore"]["properties"][name]["enum"] == list(forms)
