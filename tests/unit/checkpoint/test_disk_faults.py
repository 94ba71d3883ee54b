"""A disk that refuses or is slow: training goes on, the old checkpoint stays, the message has path, needed and free."""

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firstlight.base.errors import FirstlightError
from firstlight.checkpoint.step_folder import candidates
from tests.runs import environment, make_tiny_run, train_arguments
from tests.unit.checkpoint.disk import RefusingDisk, SlowDisk
from tests.unit.checkpoint.state import MODEL_FILE, State, blank, checkpointer, contents, is_state_of, save_last

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))
NUM_BYTES = sum(tensor.nbytes for tensor in State(2).tensors().values())


def names(folder: Path) -> list[str]:
    return [candidate.name for candidate in candidates(folder)]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("error", "at"),
    [
        (FULL, MODEL_FILE),
        (FULL, "part-00000.json"),
        (FULL, "manifest.json"),
        (BROKEN, MODEL_FILE),
        (BROKEN, "manifest.json"),
        (READ_ONLY, ""),
    ],
)
def test_a_disk_that_refuses_costs_no_checkpoint(
    tmp_path: Path, error: OSError, at: str, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    disk = RefusingDisk(None, at)
    one = checkpointer(tmp_path, keep_last=1, asynchronous=asynchronous, disk=disk)
    save_last(one, State(2))
    old = contents(tmp_path / "step-00000002")
    disk.error = error
    for step in (4, 6):
        one.save(State(step))
    with pytest.raises(FirstlightError, match="the last state is not saved"):
        one.finish()
    said = [line for line in caplog.messages if "training goes on" in line]
    assert len(said) == 2, caplog.messages
    for line, step in zip(said, (4, 6), strict=True):
        place = tmp_path if error is READ_ONLY else tmp_path / f".staging-step-{step:08d}"
        needed = NUM_BYTES if at in (MODEL_FILE, "part-00000.json", "") else r"[\d,]+"
        found = rf"checkpoint not written in {re.escape(str(place))}: \[Errno {error.errno}\] {error.strerror}; "
        assert re.match(rf"{found}{needed} bytes needed, 12,345 bytes free; training goes on", line), line
    assert contents(tmp_path / "step-00000002") == old
    assert names(tmp_path) == ["step-00000002"]
    disk.error = None
    save_last(one, State(8))
    assert names(tmp_path) == ["step-00000008"]
    assert checkpointer(tmp_path).restore(state := blank()) == 8
    assert is_state_of(state, 8)


def test_a_slow_disk_keeps_no_step_waiting(tmp_path: Path) -> None:
    """While a save takes its second, steps go by; the next save waits for it, and both are whole."""
    one = checkpointer(tmp_path, asynchronous=True, disk=SlowDisk(bytes_per_second=8_000))
    one.save(State(2))
    begin, steps = time.monotonic(), 0
    while not names(tmp_path):
        assert not one.due(3)
        time.sleep(0.001)
        steps += 1
    assert steps > 50, "no step waited for the disk"
    one.save(State(4))
    assert names(tmp_path)[-1] == "step-00000002"
    one.finish()
    assert names(tmp_path) == ["step-00000004", "step-00000002"]
    assert time.monotonic() - begin > 2 * NUM_BYTES / 8_000
    assert checkpointer(tmp_path).restore(state := blank()) == 4
    assert is_state_of(state, 4)


ON_A_SMALL_DISK = """
mount -t tmpfs -o size={size}k tmpfs {folder} || exit 99
shift
"$@" > ../log.txt 2>&1
code=$?
cp -r {folder}/. ../kept
exit $code
"""


@pytest.mark.slow
def test_a_run_whose_disk_is_really_full_trains_to_its_end(tmp_path: Path) -> None:
    """A file system of its own with room for one checkpoint only: the first stays, the last is an error."""
    run = make_tiny_run(tmp_path / "run")
    roomy = run.train("training.output_folder=../roomy")
    assert roomy.returncode == 0, roomy.stderr
    size = sum(len(content) for content in contents(tmp_path / "roomy" / "checkpoints" / "step-00000002").values())
    run.output.mkdir()
    script = ON_A_SMALL_DISK.format(size=size * 3 // 2048 + 40, folder=run.output)
    command = [sys.executable, "-m", "firstlight", *train_arguments("monitor.sinks=[jsonl]")]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", "--", *command],
        cwd=run.folder,
        env=environment(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 99 or b"unshare" in done.stderr:
        pytest.skip(f"this machine allows no mount: {done.stderr.decode().strip()}")
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 1, log
    kept = tmp_path / "kept"
    assert '"step": 4' in (kept / "metrics.jsonl").read_text(), log
    assert names(kept / "checkpoints") == ["step-00000002"]
    assert re.search(r"No space left on device; [\d,]+ bytes needed, [\d,]+ bytes free; training goes on", log), log
    assert "the last state is not saved" in log
