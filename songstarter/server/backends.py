"""Finds a tritonserver and gives it a backend directory: the official container's, or one made of the wheel.

::

    <run directory>/backends/python/libtriton_python.so            a copy: Triton refuses a link
                                   /triton_python_backend_utils.py  a link into the wheel
                                   /triton_python_backend_stub      a link to the stub of this Python version
                            onnxruntime/model.py                    a link to the project's own backend
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from songstarter.errors import MissingLibrary
from songstarter.server import libraries
from songstarter.shipped import shipped

CONTAINER = Path("/opt/tritonserver")
WHEEL = "nvidia-pytriton"
INSTALL_WHEEL = f"pip install --no-deps {WHEEL}==0.7.0"


@dataclass(frozen=True)
class Installation:
    """A tritonserver that can be started, its backends, and where its Python processes find libpython."""

    executable: Path
    backends: Path
    library_directory: Path | None = None  # None: the loader's own places will do


@dataclass(frozen=True)
class Wheel:
    """The files of the nvidia-pytriton wheel; its Python API is never imported."""

    root: Path

    @classmethod
    def find(cls) -> Wheel:
        try:
            distribution = metadata.distribution(WHEEL)
        except metadata.PackageNotFoundError:
            raise MissingLibrary(
                f"no tritonserver here: neither {CONTAINER} nor the {WHEEL} package was found; run `{INSTALL_WHEEL}`"
            ) from None
        wheel = cls(Path(str(distribution.locate_file("pytriton/tritonserver"))))
        if not wheel.executable.is_file():
            raise MissingLibrary(
                f"the {WHEEL} package here has no {wheel.executable.name}: run `{INSTALL_WHEEL} --force-reinstall`"
            )
        return wheel

    @property
    def executable(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def python_backend(self) -> Path:
        return self.root / "backends" / "python"

    @property
    def stub(self) -> Path:
        """The stub process built for this interpreter's version."""
        stubs = self.root / "python_backend_stubs"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = stubs / version / "triton_python_backend_stub"
        if not stub.is_file():
            known = ", ".join(sorted(path.name for path in stubs.glob("*"))) or "none"
            raise MissingLibrary(f"Triton's stub for Python {version} is not in the {WHEEL} package, it has: {known}")
        return stub


def install(run_directory: Path) -> Installation:
    """The container's Triton where there is one, else the wheel's with a backend directory made for it.

    Raises:
        MissingLibrary: something that Triton needs is not here.
    """
    libraries.check_packages()
    container = CONTAINER / "bin" / "tritonserver"
    if container.is_file():
        return Installation(container, CONTAINER / "backends")
    wheel = Wheel.find()
    libpython = libraries.find_libpython()
    libraries.check_links(wheel.executable, libpython.parent)
    libraries.check_links(wheel.stub, libpython.parent)
    return Installation(wheel.executable, assemble(wheel, run_directory.resolve() / "backends"), libpython.parent)


def assemble(wheel: Wheel, into: Path) -> Path:
    """Lay out a backend directory; what another server already uses of it is replaced, never rewritten."""
    python = into / "python"
    python.mkdir(parents=True, exist_ok=True)
    copy(wheel.python_backend / "libtriton_python.so", python / "libtriton_python.so")
    link(wheel.python_backend / "triton_python_backend_utils.py", python / "triton_python_backend_utils.py")
    link(wheel.stub, python / "triton_python_backend_stub")
    (into / "onnxruntime").mkdir(exist_ok=True)
    link(shipped("backends/onnxruntime/model.py"), into / "onnxruntime" / "model.py")
    return into


def copy(source: Path, target: Path) -> None:
    if target.is_file() and filecmp.cmp(source, target):  # so that a restart needs no room on the disk
        return
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copy2(source, draft)
    draft.replace(target)


def link(source: Path, target: Path) -> None:
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(source.resolve())
    draft.replace(target)
