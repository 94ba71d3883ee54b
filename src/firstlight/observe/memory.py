"""How much memory this process has taken, where no device keeps the count."""

import resource
import sys


def peak_host_memory() -> int:
    """The most memory that this process has had resident at once, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, other systems in KiB
    return peak if sys.platform == "darwin" else peak * 1024
