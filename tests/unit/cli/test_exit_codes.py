"""How a process ends tells a scheduler what to do.

0 done, 1 failed, 2 wrong input, 3 no checkpoint, 4 folder in use, 75 start again.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from firstlight.checkpoint.lock import FolderLock
from firstlight.checkpoint.step_folder import candidates
from tests.runs import TIMEOUT_SECONDS, TinyRun, make_tiny_run, train_arguments, wait_until
from tests.unit.checkpoint.state import contents
from tests.unit.cli.command import ask


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A tiny run that is done. Tests copy it before they change it."""
    run = make_tiny_run(tmp_path_factory.mktemp("finished") / "run")
    answer = ask(run.folder, *train_arguments())
    assert answer.exit_code == 0
    assert answer.err.endswith(f"done: steps 1 to 4, in {run.output}\n")
    return run


@pytest.fixture
def run(finished: TinyRun, tmp_path: Path) -> TinyRun:
    """The same in a folder of its own, to change."""
    shutil.copytree(finished.folder, tmp_path / "run")
    # It is the same run, but its configuration holds its own paths.
    text = (tmp_path / "run" / "out" / "config.yaml").read_text()
    (tmp_path / "run" / "out" / "config.yaml").write_text(text.replace(str(finished.folder), str(tmp_path / "run")))
    return TinyRun(folder=tmp_path / "run")


def test_a_run_from_text_to_text_as_processes(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    for arguments, said in (
        (train_arguments(), "step 4  held-out tiny: loss "),
        (["generate", "out", "--max-new-tokens", "5"], ""),
    ):
        done = run.firstlight(*arguments)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert "Traceback" not in done.stderr
    assert [line["step"] for line in run.metrics("step")] == [1, 2, 3, 4]


def test_a_wrong_input_as_a_process(tmp_path: Path) -> None:
    done = make_tiny_run(tmp_path).train("training.stps=5")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: run.yaml has 1 fault:\n"
        "  training.stps is not a known key; did you mean steps? (--set training.stps=5)\n"
    )


def test_a_wrong_input_of_two_processes_is_said_once(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    file = run.folder / "data" / "tiny_text_document.bin"
    file.write_bytes(file.read_bytes()[:1000])
    done = run.train(processes=2)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "outside the 1000 bytes of its .bin file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.output.exists()


def test_a_finished_run_has_nothing_to_do(run: TinyRun) -> None:
    before = contents(run.checkpoints)
    answer = ask(run.folder, *train_arguments())
    assert answer.exit_code == 0
    assert answer.err.endswith(f"nothing to do: {run.output} holds all 4 steps already\n")
    assert contents(run.checkpoints) == before


@pytest.mark.parametrize(
    ("arguments", "said", "files"),
    [
        (["evaluate", "out"], "step 4  held-out tiny: loss ", ["out/evaluation.json"]),
        (["generate", "out", "--prompt", "1: "], "1: ", ["out/sample.txt"]),
        (
            ["export", "out", "--output", "exported", "--dtype", "bf16"],
            "exported: deepseek_v3 after step 4, bf16",
            ["exported/config.json", "exported/model.safetensors", "exported/tokenizer.json"],
        ),
        (["report", "out"], "out/report.html", ["out/report.html"]),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else "",
)
def test_0_when_a_verb_is_done_with_a_run(run: TinyRun, arguments: list[str], said: str, files: list[str]) -> None:
    answer = ask(run.folder, *arguments)
    assert answer.exit_code == 0
    assert answer.out.startswith(said)
    assert "error" not in answer.err
    assert all((run.folder / file).stat().st_size for file in files)


@pytest.mark.parametrize(
    "arguments",
    [train_arguments(), ["evaluate", "out"], ["generate", "out"], ["export", "out", "--output", "exported"]],
    ids=lambda arguments: arguments[0],
)
def test_3_when_all_checkpoints_are_damaged(run: TinyRun, arguments: list[str]) -> None:
    files = [folder / "model-00001-of-00001.safetensors" for folder in candidates(run.checkpoints)]
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    answer = ask(run.folder, *arguments)
    assert answer.exit_code == 3
    relative = arguments[0] != "train"
    for file in files:
        shown = file.relative_to(run.folder) if relative else file
        assert f"checkpoint passed over: {shown} is changed in bytes 0 to " in answer.err
    assert "can be loaded (reasons above)" in answer.message
    assert not (run.folder / "exported").exists()


@pytest.mark.parametrize("verb", ["evaluate", "generate"])
def test_3_when_there_is_no_checkpoint_yet(run: TinyRun, verb: str) -> None:
    shutil.rmtree(run.checkpoints)
    answer = ask(run.folder, verb, "out")
    assert answer.exit_code == 3
    assert answer.message == "no checkpoint in out/checkpoints is there; train first"


def test_one_damaged_checkpoint_is_passed_over(run: TinyRun) -> None:
    (candidates(run.checkpoints)[0] / "manifest.json").write_text("{")
    answer = ask(run.folder, *train_arguments())
    assert answer.exit_code == 0
    assert "checkpoint passed over: " in answer.err
    assert answer.err.endswith(f"done: steps 3 to 4, in {run.output}\n")


def test_1_when_a_loss_is_not_finite_and_the_run_shall_stop(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    done = run.train("optimizer.learning_rate=1e30", "resilience.on_not_finite=stop")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("stopped after step ")]
    assert "gradient norm is nan" in said
    assert said.endswith(f"not applied (resilience.on_not_finite = stop); saved in {run.output}")
    assert candidates(run.checkpoints)


def test_1_when_the_disk_is_full(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(run.checkpoints / "step-00000002")
    shutil.rmtree(run.checkpoints / "step-00000004")
    monkeypatch.setattr("firstlight.checkpoint.disk.LocalDisk.write", full)
    monkeypatch.setattr("firstlight.train.run_folder.replace_durably", lambda *_: None)
    answer = ask(run.folder, *train_arguments())
    assert answer.exit_code == 1
    assert answer.message.startswith(f"the last state is not saved: checkpoint not written in {run.checkpoints}")
    assert "[Errno 28] No space left on device; " in answer.message
    assert contents(run.checkpoints / "step-00000002") == before


def test_4_when_another_run_is_in_the_folder(run: TinyRun) -> None:
    shutil.rmtree(run.checkpoints / "step-00000004")
    with FolderLock(run.output) as lock:
        lock.acquire()
        answer = ask(run.folder, *train_arguments())
    assert answer.exit_code == 4
    assert answer.message.startswith(f"{run.output} is in use by another run: host ")
    assert [folder.name for folder in candidates(run.checkpoints)] == ["step-00000002"]
    assert ask(run.folder, *train_arguments()).exit_code == 0


@pytest.mark.parametrize(("processes", "steps"), [pytest.param(1, 150, marks=pytest.mark.slow), (2, 60)])
def test_75_when_asked_to_stop_and_the_same_command_goes_on(tmp_path: Path, processes: int, steps: int) -> None:
    run = make_tiny_run(tmp_path)
    overrides = (f"training.steps={steps}", "checkpoint.save_every_steps=50", "training.evaluate_samples=2")
    process = run.start_training(*overrides, processes=processes)
    out, err = asked_to_stop(process, run)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    stopped = len(run.metrics("step"))
    assert 1 <= stopped < steps
    # The first rank says whose request came first; a signal is heard between two calls of Python.
    whose = "SIGTERM" if processes == 1 else "(SIGTERM|a request to another rank)"
    assert re.search(rf"stopped after step {stopped}: preempted by {whose}; saved in {run.output}\n", err)
    assert candidates(run.checkpoints)[0].name == f"step-{stopped:08d}"
    assert len(out.splitlines()) == stopped
    done = run.train(*overrides, processes=processes)
    assert done.returncode == 0, done.stderr
    assert f"done: steps {stopped + 1} to {steps}, in {run.output}\n" in done.stderr
    assert [line["step"] for line in run.metrics("step")] == list(range(1, steps + 1))
    manifest = json.loads((candidates(run.checkpoints)[0] / "manifest.json").read_text())
    assert (manifest["step"], manifest["world_size"]) == (steps, processes)
    assert manifest["state"]["data"]["consumed_samples"] == 4 * steps


def test_75_when_a_scheduler_asks_every_process(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    process = run.start_training("training.steps=60", processes=2)
    try:
        wait_until(lambda: bool(run.metrics("step")) or process.poll() is not None)
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for number in (*map(int, ranks), process.pid):
            os.kill(number, signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    assert len(ranks) == 2
    assert process.returncode == 75, err
    assert candidates(run.checkpoints)[0].name == f"step-{len(run.metrics('step')):08d}"


def asked_to_stop(process: subprocess.Popen[str], run: TinyRun) -> tuple[str, str]:
    """What the process prints when it is asked to stop after its first step."""
    try:
        wait_until(lambda: bool(run.metrics("step")) or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
