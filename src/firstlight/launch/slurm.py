"""A batch script for Slurm: one launcher on each node, and back into the queue when the time is over.

Options and environment: sbatch(1), srun(1) of Slurm.
"""

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight.base.errors import EXIT_PREEMPTED, FirstlightError, InputError

_SAVE_SECONDS = 300
"""What a run has for its step and its checkpoint before the time of the job is over."""

_PART_SECONDS = 300
"""What the other launchers have when the first has ended: they end by themselves, and say why."""

_ODD = r"[^\w.-]"
"""What an option of sbatch would have to be quoted for."""

_CORES = '--cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}"'
"""All that the job has on a node: srun would bind a task to one, and does not take over what sbatch was given."""

_OURS = ("nodes", "ntasks-per-node", "ntasks")


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """What is to be in the script. `command` starts a node's launcher, which reads its place from srun's variables."""

    command: Sequence[str]
    num_nodes: int
    name: str
    options: Sequence[str] = ()
    """Of sbatch, each NAME=VALUE or NAME."""
    setup: Sequence[str] = ()
    """Lines of shell before the start."""


def slurm_script(job: SlurmJob) -> str:
    """The text of the script. Raises InputError for an option that is none, or that the script sets itself."""
    given = [_checked(option) for option in job.options]
    named = {option.partition("=")[0] for option in given}
    defaults = {
        "job-name": f"job-name={re.sub(_ODD, '-', job.name)}",
        "output": "output=%x-%j.log",
        "requeue": "requeue",
        "signal": f"signal=TERM@{_SAVE_SECONDS}",
        "cpus-per-task": "exclusive",
    }
    options = [
        f"nodes={job.num_nodes}",
        "ntasks-per-node=1",
        *(option for name, option in defaults.items() if name not in named),
        *given,
    ]
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            "# One launcher on each node, which starts the processes there and watches over them.",
            *(f"#SBATCH --{option}" for option in options),
            "set -euo pipefail",
            *job.setup,
            "code=0",
            f"srun {_CORES} --kill-on-bad-exit=0 --wait={_PART_SECONDS} {shlex.join(job.command)} || code=$?",
            f"# {EXIT_PREEMPTED}: told to end, and saved. The run goes on from there when the job starts again.",
            f'if [ "$code" -eq {EXIT_PREEMPTED} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
            'exit "$code"',
            "",
        ]
    )


def submit(script: Path) -> str:
    """Hand the script to sbatch; what it said. Raises InputError when there is no sbatch, FirstlightError when it
    refuses."""
    try:
        done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(f"there is no sbatch on this machine; {script} is written, submit it where Slurm is") from None
    if done.returncode:
        raise FirstlightError(f"sbatch {script} failed with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def _checked(option: str) -> str:
    """One option, on one line: a line of its own could be a command."""
    name = option.partition("=")[0]
    if not name.replace("-", "").isalnum() or name.startswith("-") or not option.isprintable():
        raise InputError(f"--sbatch {option!r} is no option of sbatch; write it without dashes, as in time=12:00:00")
    if name in _OURS:
        raise InputError(f"--sbatch {option}: the script has one task on each of --nodes nodes")
    return option
