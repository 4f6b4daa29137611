"""What Triton's Python processes need of this machine, checked before they are started.

A stub that lacks a library does not fail: Triton waits for it for ever. A stub that finds another libpython
than the interpreter's own starts, and breaks later. So both are looked at first.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from songstarter.errors import MissingLibrary

DEBIAN_PACKAGES = {
    "libz.so.1": "zlib1g",
    "libexpat.so.1": "libexpat1",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
}


def check_packages() -> None:
    """numpy below 2, onnxruntime, and the bash through which Triton starts a stub."""
    try:
        numpy = metadata.version("numpy")
    except metadata.PackageNotFoundError:
        raise MissingLibrary("numpy is not installed: run `pip install numpy==1.26.4`") from None
    if int(numpy.split(".")[0]) >= 2:
        raise MissingLibrary(
            f"numpy {numpy} is installed and Triton's Python stub needs numpy below 2 (it would silently corrupt the"
            " arrays of numpy 2): run `pip install numpy==1.26.4`"
        )
    if find_spec("onnxruntime") is None:
        raise MissingLibrary("onnxruntime is not installed: run `pip install 'songstarter[serve]'`")
    if shutil.which("bash") is None:
        raise MissingLibrary("bash was not found, and Triton starts its Python processes through it: install bash")


def find_libpython(directories: Sequence[Path] | None = None) -> Path:
    """The shared libpython of this very interpreter: a distribution's 3.11.2 under a 3.11.7 breaks later.

    Raises:
        MissingLibrary: there is none; the message says how to get it.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    for directory in libpython_directories() if directories is None else directories:
        path = directory / name
        if path.is_file() and version_of(path) == platform.python_version():
            return path
    raise MissingLibrary(
        f"Triton's Python processes need {name} of Python {platform.python_version()}, and this interpreter has none:"
        f" install {name.split('.so')[0]} with apt-get, or with pyenv build Python with"
        " PYTHON_CONFIGURE_OPTS=--enable-shared"
    )


def libpython_directories() -> list[Path]:
    """Where to look, the interpreter's own places first."""
    own = [sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib")]
    return [Path(path) for path in own if path] + sorted(Path("/usr/lib").glob("*-linux-gnu"))


def version_of(libpython: Path) -> str:
    """The version a libpython says it is, asked in a process of its own; '' where it cannot be loaded."""
    question = (
        "import ctypes,sys;f=ctypes.PyDLL(sys.argv[1]).Py_GetVersion;f.restype=ctypes.c_char_p;print(f().decode())"
    )
    asked = subprocess.run(
        [sys.executable, "-I", "-S", "-c", question, str(libpython)], capture_output=True, text=True, check=False
    )
    return asked.stdout.split(" ")[0].strip()


def check_links(binary: Path, directory: Path) -> None:
    """Every shared library of a binary resolves, with one directory searched before the loader's own."""
    environment = {**os.environ, "LD_LIBRARY_PATH": library_path(directory)}
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, env=environment, check=False)
    for line in (listed.stdout + listed.stderr).splitlines():
        if "not found" in line:
            library = line.split()[0]
            raise MissingLibrary(f"{binary.name} of Triton lacks {library}: install {package_of(library)}")


def package_of(library: str) -> str:
    known = DEBIAN_PACKAGES.get(library)
    return f"{known} with apt-get" if known else "the package that provides it, or a newer distribution"


def library_path(first: Path) -> str:
    """LD_LIBRARY_PATH with one directory in front of what is set."""
    return ":".join([str(first), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
