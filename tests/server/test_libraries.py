"""What is missing on a machine is said in one sentence before Triton starts, with what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from tiny_repository import SLEEPER, add_python, free_ports, write_manifest

from songstarter.errors import MissingLibrary, ModelNotLoaded
from songstarter.server import backends, libraries
from songstarter.server.server import Server

ROOT = Path(__file__).parents[2]
INSTALL = """
from pathlib import Path
from songstarter.errors import MissingLibrary
from songstarter.server import backends
try:
    print(backends.install(Path("run")))
except MissingLibrary as error:
    print(error)
"""


def install_with(python: str, path: Path) -> str:
    """What installing says with a folder in front of all packages."""
    environment = {**os.environ, "PYTHONPATH": f"{path}:{ROOT}"}
    ran = subprocess.run([python, "-c", INSTALL], cwd=path, env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def add_package(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """An interpreter of the same version with no package installed."""
    venv.create(tmp_path / "bare", symlinks=True)
    return str(tmp_path / "bare" / "bin" / "python")


def test_numpy_2_is_refused_with_the_reason(tmp_path: Path) -> None:
    add_package(tmp_path, "numpy", "2.4.6")
    said = install_with(sys.executable, tmp_path)
    assert said.startswith("numpy 2.4.6 is installed and Triton's Python stub needs numpy below 2")
    assert said.endswith("run `pip install numpy==1.26.4`")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, bare_python: str) -> None:
    add_package(tmp_path, "numpy", "1.26.4")
    assert install_with(bare_python, tmp_path).startswith("onnxruntime is not installed: run `pip install 'songst")


def test_without_the_wheel_its_pip_command_is_named(tmp_path: Path, bare_python: str) -> None:
    add_package(tmp_path, "numpy", "1.26.4")
    add_package(tmp_path, "onnxruntime", "1.31.1")
    assert install_with(bare_python, tmp_path).endswith("run `pip install --no-deps nvidia-pytriton==0.7.0`")


def test_a_wheel_without_a_stub_for_this_python_names_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "python_backend_stubs" / "3.8").mkdir(parents=True)
    with pytest.raises(MissingLibrary, match=rf"stub for Python 3\.{sys.version_info.minor} .* it has: 3\.8"):
        _ = backends.Wheel(tmp_path).stub


def test_a_stub_with_an_unresolved_library_is_refused(tmp_path: Path) -> None:
    # away from the wheel its relative search path leads nowhere
    stub = Path(shutil.copy2(backends.Wheel.find().stub, tmp_path))
    with pytest.raises(MissingLibrary, match=r"triton_python_backend_stub of Triton lacks libcudart\S+: install"):
        libraries.check_links(stub, libraries.find_libpython().parent)


def test_the_libpython_is_this_interpreters_own() -> None:
    assert libraries.version_of(libraries.find_libpython()) == ".".join(map(str, sys.version_info[:3]))


def test_a_file_that_only_has_libpythons_name_is_no_libpython(tmp_path: Path) -> None:
    name = libraries.find_libpython().name
    (tmp_path / name).write_text("not a library")
    with pytest.raises(MissingLibrary, match=rf"need {name} of Python 3\.\d+\.\d+.* with apt-get"):
        libraries.find_libpython([tmp_path])


@pytest.mark.triton
def test_a_stub_that_cannot_start_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # laid out as in the official container, so that its own backends are used
    wheel, container = backends.Wheel.find(), tmp_path / "tritonserver"
    python = backends.assemble(wheel, container / "backends") / "python"
    (container / "bin").mkdir()
    (container / "bin" / "tritonserver").symlink_to(wheel.executable)
    (python / "triton_python_backend_stub").unlink()
    (python / "triton_python_backend_stub").write_text("#!/bin/sh\necho lib.so: cannot open >&2\nexit 127\n")
    (python / "triton_python_backend_stub").chmod(0o755)
    monkeypatch.setattr(backends, "CONTAINER", container)
    add_python(tmp_path, "sleeper", SLEEPER)
    write_manifest(tmp_path, ["sleeper"])
    with pytest.raises(ModelNotLoaded, match=r"sleeper did not load: its Python process ended: lib.so: cannot open"):
        Server(tmp_path, free_ports(), tmp_path / "run").start()
