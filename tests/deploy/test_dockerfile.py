"""The Dockerfiles, without Docker: hadolint's rules, the project's own, and the CPU image's steps carried out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfiles import Builder, Instruction, Stage, ignored, parse

ROOT = Path(__file__).resolve().parents[2]
FILES = ("Dockerfile", "Dockerfile.cpu")
PATTERNS = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
USER = "10001:10001"
IMAGES = [("Dockerfile", "runtime"), ("Dockerfile.cpu", "runtime"), ("Dockerfile.cpu", "export")]
SERVERS = IMAGES[:2]


def stages(file: str) -> dict[str, Stage]:
    return parse(ROOT / file)


def every(file: str, name: str) -> list[Instruction]:
    return [instruction for stage in stages(file).values() for instruction in stage.all(name)]


@pytest.mark.parametrize("file", FILES)
def test_hadolint_has_nothing_to_say(file: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    said = subprocess.run([hadolint, "--no-color", ROOT / file], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES)
def test_every_base_is_another_stage_or_an_image_of_one_version(file: str) -> None:
    known = stages(file)
    bases = {stage.base for stage in known.values()} - set(known)
    assert bases
    assert all(re.search(r":\d+\.\d+", base) for base in bases)


@pytest.mark.parametrize("file", FILES)
def test_what_is_copied_exists_and_is_sent_to_the_builder(file: str) -> None:
    sources = [source for step in every(file, "COPY") if "from" not in step.flags for source in step.words[:-1]]
    assert sources
    missing = [source for source in sources if not (ROOT / source).exists() or ignored(source, PATTERNS)]
    assert missing == []


@pytest.mark.parametrize("file", FILES)
def test_stages_copy_from_stages_before_them(file: str) -> None:
    seen: set[str] = set()
    for name, stage in stages(file).items():
        assert {step.flags["from"] for step in stage.all("COPY") if "from" in step.flags} <= seen
        seen.add(name)


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_added_from_afar_and_nothing_installed_by_the_system(file: str) -> None:
    assert every(file, "ADD") == []
    assert not [step.rest for step in every(file, "RUN") if re.search(r"\b(apt|apt-get|curl|wget|sudo)\b", step.rest)]


@pytest.mark.parametrize("file", FILES)
def test_packages_are_pinned_and_leave_no_cache(file: str) -> None:
    """By the constraints, by a version, or because it is this project's own wheel."""
    installing = [part for step in every(file, "RUN") for part in step.rest.split("&&") if "pip install" in part]
    assert installing
    for part in installing:
        assert "--no-cache-dir" in part
        assert "--constraint constraints.txt" in part or re.search(r"[a-z]==[\d.]+\s*$", part)


@pytest.mark.parametrize(("file", "stage"), IMAGES)
def test_an_image_runs_as_nobody_in_particular(file: str, stage: str) -> None:
    image = stages(file)[stage]
    assert image.last("USER").rest == USER
    after = image.instructions[image.instructions.index(image.last("USER")) :]
    assert not [step.name for step in after if step.name in ("RUN", "COPY", "USER")][1:]


@pytest.mark.parametrize(("file", "stage"), IMAGES)
def test_an_image_starts_without_a_shell(file: str, stage: str) -> None:
    image = stages(file)[stage]
    assert image.last("ENTRYPOINT").is_json
    assert image.last("CMD").is_json
    assert image.last("WORKDIR").rest.startswith("/")


@pytest.mark.parametrize(("file", "stage"), SERVERS)
def test_a_server_is_asked_real_questions(file: str, stage: str) -> None:
    assert '"/opt/songstarter/probe.py", "--every-model"' in stages(file)[stage].last("HEALTHCHECK").rest


@pytest.mark.parametrize(("file", "stage"), IMAGES)
def test_an_image_says_what_it_is_and_of_which_revision(file: str, stage: str) -> None:
    image = stages(file)[stage]
    assert "REVISION=unknown" in [step.rest for step in image.all("ARG")]
    labels = {word.split("=", 1)[0].removeprefix("org.opencontainers.image.") for word in image.last("LABEL").words}
    assert labels == {"title", "description", "version", "revision", "licenses", "base.name"}
    assert image.last("LABEL").rest.endswith(f'base.name="{stages(file)[image.base].base}"')


def test_every_documented_build_names_the_revision() -> None:
    """Or its label would always be unknown."""
    texts = [(ROOT / name).read_text() for name in (*FILES, "deploy/README.md")]
    builds = [line for text in texts for line in text.splitlines() if "docker build " in line]
    assert len(builds) >= 6
    assert [line for line in builds if '--build-arg REVISION="$(git rev-parse HEAD)"' not in line] == []


@pytest.mark.parametrize("file", FILES)
def test_the_license_that_is_stated_comes_along(file: str) -> None:
    assert "LICENSE" in [source for step in stages(file)["wheel"].all("COPY") for source in step.words]
    assert (ROOT / "LICENSE").read_text().split()[:2] == ["Apache", "License"]


def test_the_default_image_is_the_server() -> None:
    assert [list(stages(file))[-1] for file in FILES] == ["runtime", "runtime"]


def test_servers_have_no_torch() -> None:
    """The wheel's extras say what is installed; only the exporter's brings torch."""
    extras = {
        (file, name): re.findall(r"\.whl\)\[([a-z-]+)\]", " ".join(step.rest for step in stage.all("RUN")))
        for file in FILES
        for name, stage in stages(file).items()
    }
    assert {key: found for key, found in extras.items() if found} == {
        ("Dockerfile", "packages"): ["runtime-gpu"],
        ("Dockerfile.cpu", "packages"): ["serve"],
        ("Dockerfile.cpu", "export-packages"): ["export"],
    }


@pytest.mark.parametrize(
    "path",
    [
        "model_repository/manifest.json",
        "model_repository/decoder/1/decoder.onnx",
        "model_repository/decoder/1/decoder.onnx.data",
        "songstarter/__pycache__/cli.cpython-311.pyc",
        ".git/config",
        "tests/conftest.py",
        "Dockerfile",
    ],
)
def test_what_no_image_needs_stays_out_of_the_build(path: str) -> None:
    assert ignored(path, PATTERNS)


@pytest.mark.parametrize(
    "path", ["model_repository/decoder/config.pbtxt", "model_repository/decoder/1/model.py", "songstarter/cli.py"]
)
def test_what_an_image_needs_does_not(path: str) -> None:
    assert not ignored(path, PATTERNS)


def test_an_unknown_instruction_is_found(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM a:1.0 AS b\nCOPPY x y\n")
    with pytest.raises(ValueError, match="Dockerfile:2: COPPY is no instruction"):
        parse(tmp_path / "Dockerfile")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_cpu_image_s_own_steps_install_a_server_without_torch(tmp_path: Path) -> None:
    root = Builder(ROOT, PATTERNS, tmp_path, stages("Dockerfile.cpu")).build("runtime")
    assert {path.name for path in (root / "opt/songstarter").glob("*.py")} == {"probe.py", "model_store.py"}
    said = inside(root, "-m", "songstarter.cli", "--help")
    assert "export, serve, generate" in said
    installed = inside(root, "-m", "pip", "list", "--format=freeze")
    assert "nvidia-pytriton==0.7.0" in installed
    assert "torch==" not in installed
    inside(root, "-m", "songstarter.cli", "serve", "--help")
    for carried in ("backends/onnxruntime/model.py", "model_repository/decoder/config.pbtxt"):
        found = inside(root, "-c", f"from songstarter.shipped import shipped; print(shipped({carried!r}))")
        assert Path(found.strip()).is_relative_to(root)


def inside(root: Path, *arguments: str) -> str:
    """What the image's Python says, away from this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [root / "opt/songstarter/bin/python", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return done.stdout
