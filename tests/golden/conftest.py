"""Fixtures that several golden tests share."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from songstarter.stages.cuda.compiler import FOLDER
from songstarter.stages.cuda.libraries import Opener

EMULATOR = Path(__file__).parents[1] / "emulated_cuda"


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """CUDA's libraries, all of them in one of the host's."""
    compiler = shutil.which("g++")
    assert compiler, "the emulator needs g++"
    library = tmp_path_factory.mktemp("emulated") / "libemulated.so"
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", f"-I{EMULATOR}", f"-I{FOLDER}"]
    subprocess.run([compiler, *flags, str(EMULATOR / "emulated.cpp"), "-o", str(library)], check=True)
    return lambda name: ctypes.CDLL(str(library))
