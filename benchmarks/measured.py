"""What a measured process prints: one line of JSON. Standard library only, so that any interpreter can run it."""

import json
import time
from pathlib import Path
from typing import Any


def memory_megabytes(field: str) -> float:
    """`VmHWM` (the most so far), `VmRSS` (now) or `RssFile` (pages of mapped files, now), in units of 10**6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"/proc/self/status has no {field}")


class Stopwatch:
    """Seconds of this process since it was made, by the clock and of all its threads, and its memory."""

    def __init__(self) -> None:
        self.start_megabytes = memory_megabytes("VmRSS")
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def report(self, **more: Any) -> None:
        """Print the figures. `start_megabytes` is what imports had taken before."""
        figures = {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
            "megabytes": memory_megabytes("VmHWM"),
            "mapped_megabytes": memory_megabytes("RssFile"),
            "start_megabytes": self.start_megabytes,
        }
        print(json.dumps(figures | more))
