"""The batch script: its options, its shell, and that nothing of a user's becomes a line of its own."""

import subprocess

import pytest

from firstlight.base.errors import InputError
from firstlight.launch.slurm import SlurmJob, slurm_script


def job(*options: str, setup: tuple[str, ...] = ()) -> SlurmJob:
    command = [
        "firstlight",
        "launch",
        "nodes",
        "my run.yaml",
        "--nproc-per-node",
        "8",
        "--set",
        "training.seed=$(date)",
    ]
    return SlurmJob(command=command, num_nodes=4, name="my run", options=options, setup=setup)


def test_the_script_is_shell_and_starts_one_launcher_on_each_node() -> None:
    text = slurm_script(job("partition=gpu", "time=2-00:00:00", "gpus-per-node=8", setup=("module load cuda",)))
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    options = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert options[:3] == ["nodes=4", "ntasks-per-node=1", "job-name=my-run"]
    assert {"partition=gpu", "time=2-00:00:00", "gpus-per-node=8", "requeue", "signal=TERM@300"} <= set(options)
    # sbatch reads no options after the first command
    lines = text.splitlines()
    assert max(n for n, line in enumerate(lines) if line.startswith("#SBATCH")) < lines.index("set -euo pipefail")
    assert lines.index("module load cuda") < next(n for n, line in enumerate(lines) if line.startswith("srun "))
    assert "'my run.yaml'" in text
    assert "'training.seed=$(date)'" in text


def test_an_option_of_the_user_goes_before_ours() -> None:
    options = [line for line in slurm_script(job("signal=TERM@60", "no-requeue")).splitlines() if "signal" in line]
    assert options == ["#SBATCH --signal=TERM@60"]


def test_a_node_is_taken_whole_unless_cores_are_counted() -> None:
    assert "#SBATCH --exclusive\n" in slurm_script(job())
    assert "exclusive" not in slurm_script(job("cpus-per-task=16"))


@pytest.mark.parametrize("option", ["--time=1", "time=1\nrm -r x", "", "=1", "nodes=3", "ntasks=8", "a b=1"])
def test_what_is_no_option_is_refused(option: str) -> None:
    with pytest.raises(InputError, match="--sbatch"):
        slurm_script(job(option))
