"""Plain manifests: what helm renders, valid for the newest Kubernetes, and meaning what they should."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
from manifests import CHART, DEPLOY, MANIFESTS, ROOT, Object, needs_helm, one, plain, pod, pods, render, rendered

from benchmarks.capacity import EFFICIENCY, OVERHEAD_MS
from benchmarks.hardware import BESIDE_DECODER_BYTES, GPUS, MODELS, PRECISIONS, memory_of_slots
from benchmarks.shapes import FRAMES_PER_SECOND
from benchmarks.step_time import LONGEST_TAKE, Predicted
from export import cli as export_cli
from songstarter.server import cli
from songstarter.server.server import GRACE
from songstarter.settings import parameters

VERSIONS = ("1.35", "1.36", "1.37")
CUSTOM = {"PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule, "ScaledObject": ScaledObject}
CORE = [found for found in plain() if found["kind"] not in CUSTOM]
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
YAML_FILES = [path for path in DEPLOY.rglob("*.yaml") if "templates" not in path.parts]


@needs_helm
def test_plain_manifests_are_what_helm_renders() -> None:
    expected = render.manifests()
    assert set(MANIFESTS.rglob("*.yaml")) == set(expected) | {MANIFESTS / "namespace.yaml"}
    stale = [path.name for path, text in expected.items() if path.read_text() != text]
    assert stale == [], "run `python deploy/render.py`"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("found", CORE, ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_core_objects_are_valid_to_the_letter(found: Object, version: str) -> None:
    kubernetes_validate.validate(found, version, strict=True)


def test_the_validator_finds_a_field_that_does_not_exist() -> None:
    broken = {**one(CORE, "Service", "songstarter"), "specc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("kind", CUSTOM)
def test_custom_objects_are_valid_to_the_letter(kind: str) -> None:
    """By models made of the published definitions; they pass over what they don't know, so it must come out again."""
    found = one(plain(), kind)
    assert through_model(kind, found) == found


def test_a_custom_object_s_unknown_field_is_found() -> None:
    broken = one(plain(), "PodMonitor")
    broken["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    assert through_model("PodMonitor", broken) != broken


def through_model(kind: str, found: Object) -> Object:
    parsed = CUSTOM[kind].model_validate(found)
    dumped: Object = parsed.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return dumped


def test_yaml_is_tidy() -> None:
    rule = "{extends: relaxed, rules: {line-length: disable, commas: {max-spaces-after: 1}, anchors: enable}}"
    command = [Path(sys.executable).parent / "yamllint", "--strict", "-d", rule, *YAML_FILES]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


# -- what they mean -------------------------------------------------------------------------------------------------


def test_the_server_knows_every_argument_of_the_chart() -> None:
    parser = argparse.ArgumentParser()
    cli.configure(parser)
    verb, *arguments = pod(plain())["containers"][0]["args"]
    assert verb == "serve"
    understood, unknown = parser.parse_known_args(arguments)
    assert unknown == []
    assert understood.exit_timeout == 630


def test_the_exporter_knows_every_argument_of_the_chart() -> None:
    parser = argparse.ArgumentParser()
    export_cli.configure(parser)
    verb, *arguments = one(plain(), "Job")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert verb == "export"
    assert parser.parse_args(arguments).if_needed


def test_whoever_reaches_the_service_needs_the_key_of_a_secret() -> None:
    (server,) = pod(plain())["containers"]
    assert "--host=0.0.0.0" in server["args"]
    assert "--without-key" not in server["args"]
    assert key_of(server) == {"secretKeyRef": {"name": "songstarter-key", "key": "key"}}


def key_of(container: Object) -> Object | None:
    """Where a container has the key from; its probes are run in the same environment."""
    found = {variable["name"]: variable for variable in container["env"]}.get("SONGSTARTER_KEY", {})
    source: Object | None = found.get("valueFrom")
    return source


def test_the_longest_song_ends_before_the_pod_is_killed() -> None:
    slowest = DEFAULTS["server"]["slowestSpeed"]
    for model in ("songstarter", "songstarter_stream"):
        longest = float(parameters(ROOT / "model_repository", model)["max_duration"])
        assert seconds_to_end(plain()) > longest / slowest


def test_the_slowest_songs_that_are_recommended_are_no_slower_than_planned() -> None:
    """Predicted for the default checkpoint, where nothing was measured: the GPUs that hold the default slots."""
    model, precision = MODELS["stereo-melody-large"], DEFAULTS["modelStore"]["precision"]
    form, slots = PRECISIONS[precision], int(parameters(ROOT / "model_repository", "decoder")["slots"])
    machines = [Predicted(gpu, model, precision, form, EFFICIENCY, OVERHEAD_MS, gpu.price) for gpu in GPUS.values()]
    holding = [machine for machine in machines if machine.most_songs >= slots]
    assert {machine.hardware for machine in holding} >= {"H100 SXM", "A100-80", "L40S"}
    for machine in holding:
        step = machine.milliseconds(slots, LONGEST_TAKE) / 1000
        assert 1 / (step * FRAMES_PER_SECOND) > DEFAULTS["server"]["slowestSpeed"]


def seconds_to_end(objects: list[Object] | tuple[Object, ...]) -> int:
    """What a request in flight gets when its pod has to go; the pod itself lives longer."""
    spec = pod(objects)
    (server,) = spec["containers"]
    drain = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    (song,) = [int(arg.split("=")[1]) for arg in server["args"] if arg.startswith("--exit-timeout=")]
    assert drain + song + GRACE < spec["terminationGracePeriodSeconds"]
    return song


def test_probes_leave_time_to_load_and_to_restart() -> None:
    (server,) = pod(plain())["containers"]
    (start,) = [int(arg.split("=")[1]) for arg in server["args"] if arg.startswith("--start-timeout=")]
    for probe in ("startupProbe", "livenessProbe"):
        assert server[probe]["periodSeconds"] * server[probe]["failureThreshold"] >= start
    assert server["readinessProbe"]["periodSeconds"] * server["readinessProbe"]["failureThreshold"] <= 15


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_a_real_question(probe: str) -> None:
    (server,) = pod(plain())["containers"]
    command = server[probe]["exec"]["command"]
    assert command[:2] == ["/opt/songstarter/bin/python", "/opt/songstarter/probe.py"]
    assert Path(DEPLOY / "image" / "probe.py").is_file()


def test_every_container_is_confined() -> None:
    for spec in pods(plain()):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert "latest" not in container["image"]


def test_what_is_written_lies_in_volumes() -> None:
    spec = pod(plain())
    (server,) = spec["containers"]
    mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
    assert set(mounts) == {"/models", "/run/songstarter", "/tmp", "/dev/shm"}
    assert mounts["/models"]["readOnly"] is True
    assert "--run-directory=/run/songstarter" in server["args"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"


def test_the_export_job_fills_the_folder_that_is_served() -> None:
    job = one(plain(), "Job")["spec"]["template"]["spec"]
    (into,) = [arg.split("=")[1] for arg in job["containers"][0]["args"] if arg.startswith("--into=")]
    spec = pod(plain())
    assert f"--repository={into}" in spec["containers"][0]["args"]
    assert spec["initContainers"][0]["args"][:2] == ["wait", into]
    claims = {
        volume["persistentVolumeClaim"]["claimName"] for volume in job["volumes"] + spec["volumes"] if is_claim(volume)
    }
    assert claims == {one(plain(), "PersistentVolumeClaim")["metadata"]["name"]}


def is_claim(volume: Object) -> bool:
    return "persistentVolumeClaim" in volume


def test_services_budgets_and_policies_choose_the_servers_alone() -> None:
    objects = plain()
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    job_labels = one(objects, "Job")["spec"]["template"]["metadata"]["labels"]
    server_policy = next(found for found in objects if found["kind"] == "NetworkPolicy")
    for selector in (
        one(objects, "Service", "songstarter")["spec"]["selector"],
        one(objects, "Service", "songstarter-headless")["spec"]["selector"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        server_policy["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= job_labels.items()


def test_a_client_can_have_the_addresses_of_all_pods_and_prometheus_has_them_once() -> None:
    service, headless = (one(plain(), "Service", name) for name in ("songstarter", "songstarter-headless"))
    assert headless["spec"]["clusterIP"] == "None"
    (grpc,) = headless["spec"]["ports"]
    assert grpc in service["spec"]["ports"]
    assert [found["kind"] for found in plain() if "Monitor" in found["kind"]] == ["PodMonitor"]


def test_a_server_may_call_nobody() -> None:
    policies = [found for found in plain() if found["kind"] == "NetworkPolicy"]
    server = next(policy for policy in policies if policy["metadata"]["name"] == "songstarter")
    assert server["spec"]["egress"] == []
    assert "Egress" in server["spec"]["policyTypes"]


def test_scaling_up_is_fast_and_scaling_down_is_slow() -> None:
    behaviors = [
        one(plain(), "HorizontalPodAutoscaler")["spec"]["behavior"],
        one(plain(), "ScaledObject")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
    ]
    for behavior in behaviors:
        assert behavior["scaleUp"]["stabilizationWindowSeconds"] <= 30
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_the_adapter_serves_what_the_autoscaler_asks_for() -> None:
    adapter = yaml.safe_load((DEPLOY / "prometheus" / "adapter-values.yaml").read_text())
    served = {rule["name"]["as"] for rule in adapter["rules"]["custom"]}
    asked = {metric["pods"]["metric"]["name"] for metric in one(plain(), "HorizontalPodAutoscaler")["spec"]["metrics"]}
    assert asked == served


def test_every_pod_is_scraped_those_that_left_the_service_too_under_the_service_s_name() -> None:
    monitor, template = one(plain(), "PodMonitor")["spec"], one(plain(), "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert not monitor["selector"]["matchLabels"].items() <= job_labels().items()
    assert labels[monitor["jobLabel"]] == "songstarter"  # rules ask for this job
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    (service,) = [step for step in endpoint["relabelings"] if step["targetLabel"] == "service"]
    assert service["replacement"] == one(plain(), "Service", "songstarter")["metadata"]["name"]
    assert (
        f'service="{service["replacement"]}"'
        in one(plain(), "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    )


def job_labels() -> Object:
    labels: Object = one(plain(), "Job")["spec"]["template"]["metadata"]["labels"]
    return labels


# -- other values than the plain manifests have ------------------------------------------------------------------------

ARCHIVE = (
    "modelStore.kind=archive",
    "modelStore.archive.url=https://models.example.com/songstarter.tar",
    f"modelStore.archive.sha256={'a' * 64}",
)
SCRAPED = "monitoring.podMonitor=true"
OUTSIDE = ("service.type=LoadBalancer", "networkPolicy.clients[0].ipBlock.cidr=0.0.0.0/0")
CPU = ("gpu.count=0", "modelStore.device=cpu", "modelStore.precision=int8", "image.tag=0.1.0-cpu")
SPARSE = ("strategy.rollingUpdate.maxSurge=0", "strategy.rollingUpdate.maxUnavailable=1", "runtimeClassName=nvidia")


@needs_helm
@pytest.mark.parametrize(
    "settings",
    [(), ARCHIVE, CPU, OUTSIDE, SPARSE, ("strategy.type=Recreate",)],
    ids=["default", "archive", "cpu", "outside", "sparse", "recreate"],
)
def test_other_values_give_valid_objects_too(settings: tuple[str, ...]) -> None:
    for found in rendered(*settings):
        kubernetes_validate.validate(found, VERSIONS[-1], strict=True)


@needs_helm
def test_an_archive_needs_no_claim_and_no_job() -> None:
    objects = rendered(*ARCHIVE)
    assert not {"PersistentVolumeClaim", "Job"} & {found["kind"] for found in objects}
    assert pod(objects)["initContainers"][0]["args"][0] == "fetch"
    assert f"--sha256={'a' * 64}" in pod(objects)["initContainers"][0]["args"]


@needs_helm
def test_without_a_gpu_none_is_asked_for() -> None:
    assert "nvidia.com/gpu" in pod(rendered())["containers"][0]["resources"]["limits"]
    assert "nvidia.com/gpu" not in pod(rendered(*CPU))["containers"][0]["resources"]["limits"]


@needs_helm
def test_without_a_secret_the_waiver_is_written_down() -> None:
    (server,) = pod(rendered("server.keySecret="))["containers"]
    assert "--without-key" in server["args"]
    assert key_of(server) is None


@needs_helm
@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        (CPU, "4"),
        ((*CPU, "resources.requests.cpu=2500m"), "3"),
        ((*CPU, "resources.requests.cpu=50m"), "1"),
        ((*CPU, "server.settings.decoder.threads=7"), "7"),
        ((*CPU, "server.settings.decoder.threads=0"), "0"),
        ((), None),
    ],
)
def test_without_a_gpu_the_decoder_takes_the_cores_that_its_pod_asked_for(
    settings: tuple[str, ...], threads: str | None
) -> None:
    """By itself it would take those of the node, of which the pod has a share."""
    assert set_in(rendered(*settings)).get("decoder.threads") == threads


def set_in(objects: tuple[Object, ...]) -> dict[str, str]:
    """What is set in place of the models' parameters."""
    (server,) = pod(objects)["containers"]
    parser = argparse.ArgumentParser()
    cli.configure(parser)
    return dict(parser.parse_args(server["args"][1:]).set)


@needs_helm
@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        (("server.slowestSpeed=2",), 180),
        (("server.settings.songstarter.max_duration=60",), 630),  # a stream may still be the longer
        (
            ("server.settings.songstarter.max_duration=60", "server.settings.songstarter_stream.max_duration=90"),
            210,
        ),
        (("server.settings.songstarter_stream.max_duration=600",), 1230),
    ],
)
def test_a_pod_that_has_to_go_waits_for_the_longest_song_at_the_slowest(
    settings: tuple[str, ...], seconds: int
) -> None:
    assert seconds_to_end(rendered(*settings)) == seconds


@needs_helm
def test_where_no_gpu_is_spare_pods_make_room_before_the_next_ones_come() -> None:
    assert one(rendered(), "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    spec = one(rendered(*SPARSE), "Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert spec["template"]["spec"]["runtimeClassName"] == "nvidia"
    assert one(rendered("strategy.type=Recreate"), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert "runtimeClassName" not in pod(rendered())


@needs_helm
def test_what_is_published_outside_is_http_alone() -> None:
    services = {found["metadata"]["name"]: found["spec"] for found in rendered(*OUTSIDE) if found["kind"] == "Service"}
    published = services.pop("songstarter-public")
    assert published["type"] == "LoadBalancer"
    assert [port["name"] for port in published["ports"]] == ["http"]
    assert {spec["type"] for spec in services.values() if "type" in spec} == {"ClusterIP"}
    assert services["songstarter-headless"]["clusterIP"] == "None"
    assert "songstarter-public" not in {found["metadata"]["name"] for found in rendered()}


@needs_helm
def test_an_annotation_is_the_service_s_that_the_type_says() -> None:
    for settings, name in (((), "songstarter"), (OUTSIDE, "songstarter-public")):
        services = [found for found in rendered(*settings, "service.annotations.a=b") if found["kind"] == "Service"]
        assert [found["metadata"]["name"] for found in services if "annotations" in found["metadata"]] == [name]


@needs_helm
def test_whoever_may_ask_from_outside_the_chart_s_own_test_may_too() -> None:
    policy = one(rendered(*OUTSIDE), "NetworkPolicy", "songstarter")
    callers = policy["spec"]["ingress"][0]["from"]
    assert callers[0] == {"ipBlock": {"cidr": "0.0.0.0/0"}}
    assert callers[1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    default = one(rendered(), "NetworkPolicy", "songstarter")
    assert default["spec"]["ingress"][0]["from"] == [{"podSelector": {}}]


@needs_helm
def test_settings_become_arguments_that_the_server_understands() -> None:
    settings = ("decoder.slots=4", "songstarter.max_requests=1000000", "songstarter.max_duration=90")
    found = set_in(rendered(*(f"server.settings.{setting}" for setting in settings)))
    assert sorted(f"{name}={value}" for name, value in found.items()) == sorted(settings)


@needs_helm
def test_the_install_without_a_gpu_fits_into_its_memory() -> None:
    text = render.template(CHART.parent / "cpu-values.yaml")
    objects = tuple(found for found in yaml.safe_load_all(text) if found)
    assert seconds_to_end(objects) == seconds_to_end(rendered())  # the readme's
    (export,), (server,) = one(objects, "Job")["spec"]["template"]["spec"]["containers"], pod(objects)["containers"]
    assert export["args"][1] == "nateraw/musicgen-songstarter-v0.2"  # of this model's dimensions
    model = MODELS["stereo-melody-large"]
    (precision,) = [arg.split("=")[1] for arg in export["args"] if arg.startswith("--precision=")]
    (slots,) = [int(arg.split("=")[2]) for arg in server["args"] if arg.startswith("--set=decoder.slots=")]
    form = PRECISIONS[precision]
    keys_and_values = memory_of_slots(model, form, slots)
    assert keys_and_values / 1e9 == pytest.approx(6.3, abs=0.05)  # the readme's figure
    needed = keys_and_values + model.parameters * form.weight_bytes + BESIDE_DECODER_BYTES
    assert needed < 0.9 * int(server["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30


KUSTOMIZATION = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())


def test_the_kustomization_has_every_plain_manifest_but_keda_s() -> None:
    files = [f"manifests/{path.name}" for path in MANIFESTS.glob("*.yaml")]
    assert sorted(KUSTOMIZATION["resources"]) == sorted(files)
    assert KUSTOMIZATION["resources"][0] == "manifests/namespace.yaml"


def test_the_kustomization_takes_every_image_from_a_registry() -> None:
    images = {
        container["image"].rpartition(":")
        for spec in pods(plain())
        for container in [*spec.get("initContainers", []), *spec["containers"]]
    }
    renamed = {image["name"]: image for image in KUSTOMIZATION["images"]}
    assert set(renamed) == {name for name, _, _ in images}
    for name, _, tag in images:
        assert renamed[name]["newTag"] == tag
        assert renamed[name]["newName"].endswith(f"/{name}")


@needs_helm
def test_an_autoscaler_alone_decides_how_many_pods_there_are() -> None:
    for kind in ("none", "hpa", "keda"):
        objects = rendered(f"autoscaling.kind={kind}", SCRAPED)
        autoscalers = {found["kind"] for found in objects} & {"HorizontalPodAutoscaler", "ScaledObject"}
        assert autoscalers == {"none": set(), "hpa": {"HorizontalPodAutoscaler"}, "keda": {"ScaledObject"}}[kind]
        assert ("replicas" in one(objects, "Deployment")["spec"]) == (kind == "none")


@needs_helm
def test_the_values_for_keda_have_the_pods_scraped_too() -> None:
    text = render.template(CHART.parent / "keda-values.yaml")
    objects = [found for found in yaml.safe_load_all(text) if found]
    assert {"ScaledObject", "PodMonitor"} <= {found["kind"] for found in objects}


@needs_helm
def test_the_values_for_keda_let_the_controller_in_whose_requests_start_the_first_pod() -> None:
    text = render.template(CHART.parent / "keda-values.yaml")
    objects = [found for found in yaml.safe_load_all(text) if found]
    callers = one(objects, "NetworkPolicy", "songstarter")["spec"]["ingress"][0]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}} in callers
    assert {"podSelector": {}} in callers


@needs_helm
def test_no_answer_is_no_idleness_unless_there_are_no_pods() -> None:
    some = scaled_object()
    none = scaled_object("autoscaling.minReplicas=0", "autoscaling.keda.arrivalsQuery=sum(x)")
    for found, without_pods in ((some, False), (none, True)):
        waiting, playing = [trigger["metadata"] for trigger in found["triggers"][:2]]
        assert {waiting["ignoreNullValues"], playing["ignoreNullValues"]} == {"false"}
        assert ("or (vector(0) unless on () up{" in waiting["query"]) == without_pods
        assert ("or (vector(0) unless on () up{" in playing["query"]) == without_pods
    assert none["triggers"][2]["metadata"]["ignoreNullValues"] == "true"


@needs_helm
def test_keda_falls_back_to_a_number_of_pods_if_there_is_one_and_always_are_some() -> None:
    """KEDA multiplies it with the threshold's whole part, which must not be 0."""
    assert "fallback" not in scaled_object()
    found = scaled_object("autoscaling.keda.fallbackReplicas=3")
    assert found["fallback"] == {"failureThreshold": 20, "replicas": 3}
    assert [trigger["metadata"]["threshold"] for trigger in found["triggers"]] == ["25", "75"]
    assert all(trigger["metadata"]["query"].startswith("100 * sum(") for trigger in found["triggers"])
    to_nothing = ("autoscaling.minReplicas=0", "autoscaling.keda.arrivalsQuery=sum(x)")
    assert "fallback" not in scaled_object("autoscaling.keda.fallbackReplicas=3", *to_nothing)


def scaled_object(*settings: str) -> Object:
    """What KEDA is asked for; valid to the letter."""
    found = one(rendered("autoscaling.kind=keda", SCRAPED, *settings), "ScaledObject")
    assert through_model("ScaledObject", found) == found
    spec: Object = found["spec"]
    return spec


@needs_helm
def test_another_checkpoint_is_exported_into_another_folder_by_another_job() -> None:
    first, second = rendered(), rendered("modelStore.checkpoint=facebook/musicgen-small")
    assert one(first, "Job")["metadata"]["name"] != one(second, "Job")["metadata"]["name"]
    assert pod(first)["containers"][0]["args"] != pod(second)["containers"][0]["args"]


@needs_helm
@pytest.mark.parametrize(
    "change",
    [
        "modelStore.export.resources.limits.memory=64Gi",
        "modelStore.export.hubTokenSecret=hub",
        "modelStore.export.scratch=90Gi",
        "image.pullPolicy=Always",
    ],
)
def test_another_exporting_pod_is_another_job_that_exports_into_the_same_folder(change: str) -> None:
    """A Job's pod cannot be changed: under the same name the upgrade would fail."""
    first, second = one(rendered(), "Job"), one(rendered(change), "Job")
    assert first["spec"]["template"] != second["spec"]["template"]
    assert first["metadata"]["name"] != second["metadata"]["name"]
    args = first["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args == second["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--if-needed" in args


@needs_helm
def test_what_says_nothing_to_the_exporter_leaves_its_job_as_it_is() -> None:
    first, second = rendered(), rendered("server.settings.decoder.slots=4", "resources.limits.memory=32Gi")
    assert one(first, "Job") == one(second, "Job")


@needs_helm
def test_another_version_of_the_chart_alone_changes_no_pod(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "songstarter")
    text = (chart / "Chart.yaml").read_text()
    (chart / "Chart.yaml").write_text(text.replace("version: 0.1.0", "version: 0.1.1"))
    command = [render.helm(), "template", "songstarter", str(chart), "--namespace=songstarter", "--skip-tests"]
    other = [*yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout)]
    for kind in ("Deployment", "Job"):
        assert one(other, kind)["metadata"]["labels"] != one(rendered(), kind)["metadata"]["labels"]
        assert one(other, kind)["spec"]["template"] == one(rendered(), kind)["spec"]["template"]
    assert one(other, "Job")["metadata"]["name"] == one(rendered(), "Job")["metadata"]["name"]


@needs_helm
def test_a_long_release_s_job_has_a_name_that_kubernetes_takes() -> None:
    command = [render.helm(), "template", "songstarter-of-a-team-with-a-rather-long-name-here", str(CHART)]
    objects = [*yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout)]
    (job,) = [found for found in objects if found and found["kind"] == "Job"]
    assert len(job["metadata"]["name"]) <= 63  # it becomes a label of its pods


@needs_helm
def test_helm_lints_the_chart_strictly() -> None:
    subprocess.run([render.helm(), "lint", "--strict", "--quiet", str(CHART)], capture_output=True, check=True)


@needs_helm
def test_helm_test_asks_for_a_song_through_the_service() -> None:
    command = [render.helm(), "template", "songstarter", str(CHART), "--show-only", "templates/tests/song.yaml"]
    hook = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    kubernetes_validate.validate(hook, VERSIONS[-1], strict=True)
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert "--url=songstarter:8001" in hook["spec"]["containers"][0]["args"]
    assert key_of(hook["spec"]["containers"][0]) == {"secretKeyRef": {"name": "songstarter-key", "key": "key"}}
