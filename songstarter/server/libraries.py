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


def find_libpython() -> Path:
    """The shared libpython of this very interpreter, not merely of its version.

    Raises:
        MissingLibrary: there is none; the message says how to get it.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    for directory in libpython_directories():
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


def check_links(binary: Path, libpython: Path) -> None:
    """Every shared library of a binary resolves, and its libpython is the interpreter's own."""
    environment = {**os.environ, "LD_LIBRARY_PATH": library_path(libpython.parent)}
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, env=environment, check=False)
    for line in (listed.stdout + listed.stderr).splitlines():
        library, _, found = line.strip().partition(" => ")
        if "not found" in line:
            raise MissingLibrary(f"{binary.name} lacks {line.strip()}: install {package_of(library.split()[0])}")
        if library == libpython.name and not os.path.samefile(found.split(" (")[0], libpython):
            raise MissingLibrary(
                f"{binary.name} would use {found.split(' (')[0]}, and this interpreter's own libpython is {libpython}:"
                " remove the other from LD_LIBRARY_PATH"
            )


def package_of(library: str) -> str:
    return f"the Debian package {DEBIAN_PACKAGES[library]}" if library in DEBIAN_PACKAGES else "what provides it"


def library_path(first: Path) -> str:
    """LD_LIBRARY_PATH with one directory in front of what is set."""
    return ":".join([str(first), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
