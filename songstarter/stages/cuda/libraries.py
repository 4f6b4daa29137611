"""Where CUDA's libraries are, opened as C sees them: the driver's, the compiler's, and that of products."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from songstarter.errors import DeviceError

PACKAGES = Path("nvidia", "cu13", "lib")  # of pip's packages, in any folder of ``sys.path``
DRIVER, COMPILER, PRODUCTS = "libcuda.so.1", "libnvrtc.so.13", "libcublas.so.13"

Opener = Callable[[str], ctypes.CDLL]
Words = Callable[[ctypes.CDLL, int], str]


def open_library(name: str) -> ctypes.CDLL:
    """A library by its file's name.

    Raises:
        DeviceError: it is nowhere.
    """
    found = (Path(place, PACKAGES, name).resolve() for place in sys.path)
    errors = []
    for candidate in (*map(str, filter(Path.is_file, found)), name):
        try:
            return ctypes.CDLL(candidate)
        except OSError as error:
            errors.append(str(error))
    raise DeviceError(f"{name} cannot be opened ({errors[-1]}): install the GPU's driver, and songstarter[runtime-gpu]")


def returned_words(function: str) -> Words:
    """What a library's function returns for a result."""

    def words(library: ctypes.CDLL, result: int) -> str:
        found = getattr(library, function)
        found.argtypes, found.restype = (ctypes.c_int,), ctypes.c_char_p
        return (found(result) or b"unknown").decode(errors="replace")

    return words


class Calls:
    """A library's functions that return 0 where all went well."""

    def __init__(self, library: ctypes.CDLL, functions: Mapping[str, tuple[Any, ...]], words: Words) -> None:
        """Declare ``functions``, name -> argument types, and what has ``words`` for a result.

        Raises:
            DeviceError: the library lacks a function; it is another release.
        """
        self._library, self._words = library, words
        self._functions = {}
        try:
            for name, types in functions.items():
                function = getattr(library, name)
                function.argtypes, function.restype = types, ctypes.c_int
                self._functions[name] = function
        except AttributeError as error:
            raise DeviceError(f"a library of CUDA is not of release 13: {error}") from error

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            DeviceError: it did not return 0.
        """
        result = self._functions[name](*arguments)
        if result:
            words = self._words(self._library, result)
            raise DeviceError(f"{name} failed on the device with code {result}: {words}")
