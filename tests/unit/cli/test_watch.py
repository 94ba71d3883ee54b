import signal
import subprocess
import urllib.request
from pathlib import Path

from tests.runs import command, environment
from tests.unit.observe.synthetic import record_run


def test_the_page_is_served_until_an_interrupt(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run")
    process = subprocess.Popen(
        command("watch", str(run), "--port", "0"), env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b'data-step="400"' in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()


def test_what_cannot_be_watched_is_said(tmp_path: Path) -> None:
    for arguments, said in (
        ((str(tmp_path / "absent"),), "is no folder; name a run's output folder"),
        ((str(tmp_path), str(tmp_path), "--tui"), "--tui shows one run"),
    ):
        done = subprocess.run(
            command("watch", *arguments), env=environment(), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 2
        assert said in done.stderr
