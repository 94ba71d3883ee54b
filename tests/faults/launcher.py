"""Our launcher with ranks that have a planted fault: `python -m tests.faults.launcher FAULT PROCESSES ARGUMENTS...`."""

import sys

from firstlight.base import log
from firstlight.launch.local import launch_local

if __name__ == "__main__":
    log.set_up()
    fault, processes, *arguments = sys.argv[1:]
    entry = ("-m", "tests.faults.faulty", fault)
    sys.exit(launch_local(arguments, num_processes=int(processes), entry=entry))
