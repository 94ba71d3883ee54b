"""The C library's allocator: memory that a step has freed is kept for the next one."""

import ctypes
import sys

# From malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER = 2**31 - 1
_GROWTH_BYTES = 1 << 28


def keep_freed_memory() -> bool:
    """Let the allocator of this process give no freed memory back to the system; whether it could be told.

    By default glibc maps a large tensor afresh each time and the system clears its pages each time, which took 4 to
    19 % of a step on CPU. Only glibc has these settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH_BYTES))
    return all(libc.mallopt(setting, value) == 1 for setting, value in settings)
