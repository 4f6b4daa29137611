"""deploy/README.md: its commands can be followed, and its figures are computed."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

import pytest
import yaml
from manifests import CHART, DEPLOY, ROOT, Object, needs_helm, pod, pods, render

from benchmarks.capacity import EFFICIENCY, OVERHEAD_MS
from benchmarks.hardware import BESIDE_DECODER_BYTES, GPUS, MODELS, PRECISIONS, memory_of_slots
from benchmarks.shapes import FRAMES_PER_SECOND
from benchmarks.step_time import LONGEST_TAKE, Predicted

README = (DEPLOY / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
INSTALLS = [words for words in COMMANDS if words[:2] == ["helm", "install"]]
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
MODEL = MODELS["stereo-melody-large"]  # the default checkpoint's dimensions
SLOTS = 16


def options(words: list[str], name: str) -> list[str]:
    return [after for word, after in pairwise(words) if word == name]


def objects(install: list[str]) -> tuple[Object, ...]:
    """What an install makes, with a digest in place of the dots."""
    files = [ROOT / path for path in options(install, "--values")]
    settings = [text.replace("sha256:...", f"sha256:{'0' * 64}") for text in options(install, "--set")]
    text = render.template(*files, settings=tuple(settings))
    return tuple(found for found in yaml.safe_load_all(text) if found)


@needs_helm
@pytest.mark.parametrize("install", INSTALLS, ids=["gpu", "cpu"])
def test_an_install_takes_every_image_from_where_it_was_pushed(install: list[str]) -> None:
    position = COMMANDS.index(install)
    pushed = [words[2] for words in COMMANDS[:position] if words[:2] == ["docker", "push"]]
    for spec in pods(objects(install)):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            image = container["image"]
            assert image in pushed or image.partition("@sha256")[0] in {name.rpartition(":")[0] for name in pushed}


def test_what_is_pushed_was_built_and_tagged() -> None:
    built = {words[words.index("--tag") + 1] for words in COMMANDS if words[:2] == ["docker", "build"]}
    tagged = {words[3]: words[2] for words in COMMANDS if words[:2] == ["docker", "tag"]}
    assert set(tagged.values()) == built
    assert {words[2] for words in COMMANDS if words[:2] == ["docker", "push"]} == set(tagged)


def test_the_test_song_is_asked_for_when_the_pods_are_ready() -> None:
    verbs = [" ".join(word for word in words[:5] if not word.startswith("-")) for words in COMMANDS]
    (asked,) = [number for number, verb in enumerate(verbs) if verb.startswith("helm test")]
    assert "rollout status" in verbs[asked - 1]
    assert verbs[asked - 2].startswith("helm install")


def test_files_that_commands_name_are_there() -> None:
    named = [
        path
        for words in COMMANDS
        for option in ("--file", "--values", "--kustomize")
        for path in options(words, option)
    ]
    assert len(named) >= 5
    assert [path for path in named if not (ROOT / path).exists()] == []


@needs_helm
def test_the_grace_that_is_named_is_the_chart_s() -> None:
    spec = pod(objects(INSTALLS[0]))
    (song,) = [arg.split("=")[1] for arg in spec["containers"][0]["args"] if arg.startswith("--exit-timeout=")]
    assert f"30 seconds: {song}." in README
    assert f"the sum and 20 seconds, {spec['terminationGracePeriodSeconds']};" in " ".join(README.split())
    assert f": {song} seconds." in (CHART / "values.yaml").read_text()


def gigabytes(precision: str, slots: int) -> float:
    form = PRECISIONS[precision]
    weights = MODEL.parameters * form.weight_bytes + form.traffic(MODEL).weights
    return (memory_of_slots(MODEL, form, slots) + weights + BESIDE_DECODER_BYTES) / 1e9


def test_the_memory_that_the_default_takes_is_named() -> None:
    precision = DEFAULTS["modelStore"]["precision"]
    keys_and_values = memory_of_slots(MODEL, PRECISIONS[precision], SLOTS) / 1e9
    weights = gigabytes(precision, SLOTS) - keys_and_values - BESIDE_DECODER_BYTES / 1e9
    assert f"in `{precision}` takes {gigabytes(precision, SLOTS):.1f} GB: {keys_and_values:.1f} for keys" in README
    assert f"{weights:.1f} for the decoder's weights" in README
    assert f"in `fp16` it takes {gigabytes('fp16', SLOTS):.1f}." in README
    named = f"take {gigabytes(precision, SLOTS):.0f} GB of a GPU, in fp16 {gigabytes('fp16', SLOTS):.0f}"
    assert named in (CHART / "values.yaml").read_text()


def machine(gpu: str, precision: str) -> Predicted:
    return Predicted(GPUS[gpu], MODEL, precision, PRECISIONS[precision], EFFICIENCY, OVERHEAD_MS, GPUS[gpu].price)


def speed(found: Predicted, songs: int) -> float:
    """Seconds of music in a second, of one song among so many."""
    return 1000 / (found.milliseconds(songs, LONGEST_TAKE) * FRAMES_PER_SECOND)


@pytest.mark.parametrize("gpu", GPUS)
def test_the_line_of_a_gpu_is_computed(gpu: str) -> None:
    cells = [gpu]
    for precision in ("fp16_kv8", "fp16"):
        found = machine(gpu, precision)
        fits = found.most_songs >= SLOTS
        cells += [str(found.most_songs), f"{speed(found, SLOTS):.2f}" if fits else "refused"]
    assert f"| {' | '.join(cells)} |" in README


def test_what_a_small_gpu_is_to_set_fits_and_is_fast_enough() -> None:
    (slots,) = map(int, re.findall(r"On 24 GB set `decoder.slots=(\d+)`", README))
    l4 = machine("L4", "fp16_kv8")
    assert slots < l4.most_songs
    assert f"{gigabytes('fp16_kv8', slots):.1f} GB, and on an L4 {speed(l4, slots):.2f} times" in README
    assert speed(l4, slots) > DEFAULTS["server"]["slowestSpeed"]


def test_every_alert_is_counted() -> None:
    alerts = yaml.safe_load((DEPLOY / "manifests" / "prometheusrule.yaml").read_text())["spec"]["groups"]
    number = sum("alert" in rule for group in alerts for rule in group["rules"])
    # Pods are missing where there should be more than one, which the plain manifests do not ask for.
    assert {12: "Thirteen"}[number] + " alerts" in README
