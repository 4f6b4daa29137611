"""What is freed below something that stays goes back to the system."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, time
from pathlib import Path
from songstarter.freed_memory import FreedMemory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)
small = [libc.malloc(60_000) for _ in range(2_000)]
for place in small:
    ctypes.memset(place, 1, 60_000)
full = resident()
for place in small[:-1]:  # the last one stays, and all others lie below it
    libc.free(place)
kept = resident()
memory = FreedMemory(period=0.05)
memory.start()
time.sleep(1)
memory.stop()
print(full, kept, resident())
"""


def test_memory_freed_below_what_stays_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, kept, after = map(int, done.stdout.split())
    assert kept > full - 20_000_000  # by itself the allocator keeps it
    assert after < full - 90_000_000
