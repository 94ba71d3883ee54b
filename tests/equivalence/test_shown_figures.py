"""What a run shows is true whatever the layout: console, metrics.jsonl, TensorBoard and report of one process and of
several say the same."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from firstlight.observe.history import read_histories
from tests.runs import TinyRun, make_tiny_run, train_arguments

pytestmark = pytest.mark.slow

EVERYTHING = "monitor.measure=[ranks,weights,updates,optimizer_state,layers,communication]"
SINKS = "monitor.sinks=[console,jsonl,tensorboard]"
PIPELINE = "parallelism={pipeline_parallel: 2}"
PIPELINE_OF_EXPERTS = "parallelism={pipeline_parallel: 2, expert_parallel: 2}"

TIMEOUT_SECONDS = 900

SAME = 1e-6
"""Relative: fp32 products in another order. About 2e-8 is measured."""

AFTER_A_TIE = 1e-2
"""Relative: when rounding has decided a near tie between two experts otherwise, two runs have gone different ways."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a run has shown."""

    run: TinyRun
    console: str

    def console_losses(self) -> dict[int, str]:
        found = re.findall(r"^step +(\d+)/\d+  loss +([\d.]+)", self.console, re.MULTILINE)
        return {int(step): loss for step, loss in found}

    def tensorboard(self, tag: str) -> dict[int, float]:
        (file,) = (self.run.output / "tensorboard").iterdir()
        return {
            event.step: value.tensor.float_val[0]
            for event in EventFileLoader(str(file)).Load()
            for value in event.summary.value
            if value.tag == tag
        }


def shown(folder: Path, *overrides: str, processes: int) -> Shown:
    run = make_tiny_run(folder)
    arguments = train_arguments(*overrides, SINKS, EVERYTHING, processes=processes)
    done = run.firstlight(*arguments, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stderr
    return Shown(run=run, console=done.stdout)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shown, Shown]:
    """Four steps in one process, and through a pipeline of two."""
    folder = tmp_path_factory.mktemp("shown")
    size = ("training.global_batch_size=8", "training.micro_batch_size=2")
    return shown(folder / "one", *size, processes=1), shown(folder / "two", *size, PIPELINE, processes=2)


def compare_losses(one: Shown, other: Shown, steps: int) -> None:
    """Every place where a loss is shown, for every step."""
    for run in (one, other):
        records = {record["step"]: record["loss"] for record in run.run.metrics("step")}
        assert sorted(records) == list(range(1, steps + 1))
        assert run.console_losses() == {step: f"{loss:.4f}" for step, loss in records.items()}
        assert run.tensorboard("loss") == pytest.approx(records, rel=1e-6)
        (history,) = read_histories([run.run.output])
        assert dict(zip(history.column("step"), history.column("loss"), strict=True)) == records
    losses = [[record["loss"] for record in run.run.metrics("step")] for run in (one, other)]
    alike = steps_of_the_same_choices(one, other)
    assert alike > min(steps, 100) - 1
    assert losses[1][:alike] == pytest.approx(losses[0][:alike], rel=SAME)
    assert losses[1] == pytest.approx(losses[0], rel=AFTER_A_TIE)


def steps_of_the_same_choices(one: Shown, other: Shown) -> int:
    """Records until the first one in which some token has gone to another expert. One token in 128 assignments is
    enough to be seen in the load of a layer."""
    for index, records in enumerate(zip(one.run.metrics("step"), other.run.metrics("step"), strict=True)):
        loads = [{name: value for name, value in one.items() if name.startswith("expert_load/")} for one in records]
        if loads[0] != loads[1]:
            return index
    return index + 1


def test_loss_is_the_same_everywhere(pair: tuple[Shown, Shown]) -> None:
    compare_losses(*pair, steps=4)


def test_norms_and_experts_are_the_same(pair: tuple[Shown, Shown]) -> None:
    one, other = (run.run.metrics("step")[-1] for run in pair)
    kinds = ("grad_norm", "layer_grad_norm", "weight_norm", "update_norm", "optimizer_norm", "expert_load")
    names = [name for name in one if name.startswith(kinds)]
    assert {name.partition("/")[0] for name in names} == set(kinds)
    assert {name: other[name] for name in names} == pytest.approx({name: one[name] for name in names}, rel=1e-3)


def test_groups_add_up_to_the_whole(pair: tuple[Shown, Shown]) -> None:
    for run in pair:
        for record in run.run.metrics("step"):
            squares = sum(value**2 for name, value in record.items() if name.startswith("grad_norm/"))
            assert squares == pytest.approx(record["grad_norm"] ** 2, rel=1e-9)


def test_each_rank_has_its_figures(pair: tuple[Shown, Shown]) -> None:
    one, other = (run.run.metrics("ranks")[-1] for run in pair)
    record = pair[1].run.metrics("step")[-1]
    assert one["loss"] == pytest.approx([record["loss/lm"]], rel=SAME)
    assert other["loss"][0] is None, "the first stage has no loss"
    assert other["loss"][1] == pytest.approx(record["loss/lm"], rel=SAME)
    assert sum(norm**2 for norm in other["grad_norm"]) == pytest.approx(record["grad_norm"] ** 2, rel=1e-9)
    assert record["memory_bytes"] == max(other["memory_bytes"])
    idle = other["idle_share"]
    assert all(0 < share < 1 for share in idle)
    assert 0 < record["pipeline_bubble"] < 1
    assert "pipeline_bubble" not in pair[0].run.metrics("step")[-1]


def test_a_rank_that_waits_for_another_one_shows_it_as_communication(tmp_path: Path) -> None:
    slow = "resilience.inject=[{kind: slow, rank: 1, step: 3, seconds: 3}]"
    run = shown(tmp_path, "training.micro_batch_size=1", slow, processes=2).run
    alone = shown(tmp_path / "alone", processes=1).run.metrics("step")[-1]
    second, third = run.metrics("ranks")[1:3]
    exposed = third["exposed_communication_seconds"]
    assert 2.8 < exposed[0] < 5
    assert exposed[1] < 1.5, "the one that was waited for"
    assert 0 < max(second["exposed_communication_seconds"]) < 1.5
    assert run.metrics("step")[2]["exposed_communication_seconds"] == pytest.approx(sum(exposed) / 2)
    for line in run.metrics("ranks"):
        pairs = zip(line["exposed_communication_seconds"], line["forward_backward_seconds"], strict=True)
        assert all(part <= whole for part, whole in pairs)
    assert "exposed_communication_seconds" not in alone


@pytest.mark.slow
def test_two_hundred_steps_of_a_pipeline_of_experts(tmp_path: Path) -> None:
    """Two stages of two ranks that share the experts; the same loss while the same experts are chosen."""
    size = (
        "training.global_batch_size=8",
        "training.micro_batch_size=2",
        "training.steps=200",
        "checkpoint.save_every_steps=100",
    )
    one = shown(tmp_path / "one", *size, processes=1)
    other = shown(tmp_path / "four", *size, PIPELINE_OF_EXPERTS, processes=4)
    compare_losses(one, other, steps=200)
