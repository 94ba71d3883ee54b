"""Memory that was freed stays with the process once the allocator was told so."""

import subprocess
import sys

import pytest

FREED = """
import ctypes, sys
from pathlib import Path
from firstlight.base.allocator import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

told = keep_freed_memory() if sys.argv[1] == "told" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
before, size = resident(), 256 << 20
block = libc.malloc(ctypes.c_size_t(size))
ctypes.memset(block, 1, size)
libc.free(block)
print(told, (resident() - before) / size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has these settings")
def test_freed_memory_stays() -> None:
    said = {}
    for how in ("told", "untold"):
        done = subprocess.run([sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True)
        said[how] = done.stdout.split()
    if said["told"][0] == "False":
        pytest.skip("the C library of this machine is not glibc, or refuses")
    assert float(said["told"][1]) > 0.9
    assert float(said["untold"][1]) < 0.1
