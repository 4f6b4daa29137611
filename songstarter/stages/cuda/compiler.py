"""The doorway to CUDA's compiler: kernels are compiled where they run, for the device that is there.

``python -m songstarter.stages.cuda.compiler`` compiles them for devices that are not there: does it work at all.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from songstarter.errors import DeviceError
from songstarter.stages.cuda.libraries import COMPILER, Calls, Opener, open_library, returned_words

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "decoder.cu"
CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))  # from Ampere to Blackwell
OUT, SIZE = ctypes.POINTER(c_void_p), ctypes.POINTER(c_size_t)

FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "nvrtcCreateProgram": (OUT, c_char_p, c_char_p, c_int, c_void_p, c_void_p),
    "nvrtcCompileProgram": (c_void_p, c_int, ctypes.POINTER(c_char_p)),
    "nvrtcGetProgramLogSize": (c_void_p, SIZE),
    "nvrtcGetProgramLog": (c_void_p, c_char_p),
    "nvrtcGetCUBINSize": (c_void_p, SIZE),
    "nvrtcGetCUBIN": (c_void_p, c_char_p),
    "nvrtcDestroyProgram": (OUT,),
}


def compile_kernels(opener: Opener, capability: tuple[int, int]) -> bytes:
    """The kernels of ``decoder.cu`` as machine code for devices of a compute capability.

    Raises:
        DeviceError: the compiler is not there, or it refuses.
    """
    call = Calls(opener(COMPILER), FUNCTIONS, returned_words("nvrtcGetErrorString"))
    program = c_void_p()
    call("nvrtcCreateProgram", byref(program), SOURCE.read_bytes(), SOURCE.name.encode(), 0, None, None)
    major, minor = capability
    options = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", f"--include-path={FOLDER}"]
    try:
        call("nvrtcCompileProgram", program, len(options), (c_char_p * len(options))(*map(str.encode, options)))
    except DeviceError as error:
        log = _text(call, "nvrtcGetProgramLog", program).decode(errors="replace").strip("\0\n")
        raise DeviceError(f"{SOURCE.name} cannot be compiled for compute capability {major}.{minor}: {log}") from error
    cubin = _text(call, "nvrtcGetCUBIN", program)
    call("nvrtcDestroyProgram", byref(program))
    return cubin


def _text(call: Calls, name: str, program: c_void_p) -> bytes:
    size = c_size_t()
    call(f"{name}Size", program, byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    call(name, program, buffer)
    return buffer.raw


if __name__ == "__main__":
    for capability in CAPABILITIES:
        made = len(compile_kernels(open_library, capability))
        sys.stdout.write(f"compute capability {capability[0]}.{capability[1]}: {made} bytes\n")
