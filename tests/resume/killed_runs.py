"""A program: trains the tiny run over and over, killing the training process at chance moments.

It forks from a process in which torch is loaded, so a start costs a fraction of a second. The kill is a real SIGKILL of
a process that really trains. Prints counts as JSON; ends with 1 and the reason when a checkpoint was lost.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

# What a training process needs, loaded once here.
import firstlight.train.train  # noqa: F401
from firstlight.checkpoint.facts import verify_checkpoints
from firstlight.checkpoint.manifest import Manifest, read_manifest
from firstlight.checkpoint.step_folder import candidates
from firstlight.cli.main import main


def start(arguments: list[str]) -> int:
    """A child process that runs the command line; its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.argv = ["firstlight", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    finally:
        os._exit(code)


def ended_within(child: int, seconds: float) -> int | None:
    """The exit status of a child that ended by itself; None when it was killed after that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class Counts:
    """What happened."""

    def __init__(self) -> None:
        self.kills = self.in_a_save = self.before_the_first = self.finished = 0
        self._seen: set[tuple[int, int]] = set()

    def look_for_an_interrupted_save(self, checkpoints: Path) -> None:
        """Count the kill when it left a hidden folder that was not there after another one."""
        found = {(path.stat().st_ino, path.stat().st_ctime_ns) for path in checkpoints.glob(".*")}
        self.in_a_save += bool(found - self._seen)
        self._seen |= found

    def shown(self) -> str:
        return json.dumps({name: value for name, value in vars(self).items() if not name.startswith("_")})


def look(checkpoints: Path, counts: Counts, newest: int) -> int:
    """After a kill: every published checkpoint is sound, and the newest is not older than before; its step."""
    if checkpoints.is_dir():
        counts.look_for_an_interrupted_save(checkpoints)
    found = verify_checkpoints(checkpoints, None) if candidates(checkpoints) else []
    faults = [f"{one.path}: {one.fault}" for one in found if one.fault]
    if faults:
        sys.exit(f"after kill {counts.kills}: {faults}")
    step = found[0].step if found else 0
    if step < newest:
        sys.exit(f"after kill {counts.kills}: the newest checkpoint is of step {step}, before it was {newest}")
    counts.before_the_first += step == 0
    return step


def same(one: Manifest, other: Manifest) -> bool:
    """The digests of all files are those of every weight and moment."""
    return one.step == other.step and one.files == other.files and one.state == other.state


def kill_again_and_again(arguments: list[str], output: Path, num_kills: int) -> Counts:
    """Kill `num_kills` times, starting anew whenever a run has come to its end.

    A life lasts at most as long as a whole run does on this machine, which may become faster or slower meanwhile.
    """
    counts, source = Counts(), random.Random(num_kills)
    begin = time.monotonic()
    if ended_within(start(arguments), 600) != 0:
        sys.exit("the undisturbed run failed")
    longest = time.monotonic() - begin
    undisturbed = read_manifest(candidates(output / "checkpoints")[0])
    shutil.rmtree(output)
    newest = 0
    while counts.kills < num_kills or newest > 0 or counts.finished == 0:
        limit = source.uniform(0, longest) if counts.kills < num_kills else 600
        status = ended_within(start(arguments), limit)
        if status is None:
            counts.kills += 1
            before, newest = newest, look(output / "checkpoints", counts, newest)
            # Few lives shall end while they start, and few at the end of the run.
            longest *= 1.1 if newest == before else 0.97
            continue
        if status != 0:
            sys.exit(f"after kill {counts.kills}: a run that went on ended with status {status}")
        if not same(read_manifest(candidates(output / "checkpoints")[0]), undisturbed):
            sys.exit(f"after kill {counts.kills}: the run ended with other weights than the undisturbed one")
        counts.finished += 1
        longest *= 0.9
        shutil.rmtree(output)
        newest = 0
    return counts


if __name__ == "__main__":
    found = kill_again_and_again(sys.argv[2:], Path("out"), int(sys.argv[1]))
    sys.stdout.write(found.shown() + "\n")
