"""Averages of weights against their formulas, with the thread and without, and over a restart."""

from typing import Any

import pytest
import torch
from torch import Tensor

from firstlight.config.averages import AveragesConfig, PmaConfig
from firstlight.optim.averages import Averages, MergedWeights, MovingAverage

STEPS = 50


def drawn(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=generator) for name, shape in {"matrix": (5, 7), "norm": (9,)}.items()}


def move(live: dict[str, Tensor], step: int) -> None:
    """As an update does, in place."""
    for name, value in drawn(step).items():
        live[name].mul_(0.9).add_(value, alpha=0.1)


@pytest.mark.parametrize("is_asynchronous", [False, True], ids=["at_once", "by_a_thread"])
def test_fifty_updates_are_the_formula(is_asynchronous: bool) -> None:
    live = drawn(0)
    average = MovingAverage(live, 0.9, is_asynchronous=is_asynchronous)
    expected = {name: value.double() for name, value in live.items()}
    for step in range(1, STEPS + 1):
        move(live, step)
        average.update()
        expected = {name: 0.9 * value + 0.1 * live[name].double() for name, value in expected.items()}
    # What comes after an update is not in it, though the thread may still be at work.
    for value in live.values():
        value.fill_(1e9)
    for name, tensor in average.tensors().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-6)


def test_the_thread_changes_no_bit() -> None:
    first, second = drawn(0), drawn(0)
    averages = MovingAverage(first, 0.95, is_asynchronous=False), MovingAverage(second, 0.95, is_asynchronous=True)
    for step in range(1, STEPS + 1):
        for live, average in zip((first, second), averages, strict=True):
            move(live, step)
            average.update()
    at_once, by_thread = (average.tensors() for average in averages)
    assert all(torch.equal(at_once[name], tensor) for name, tensor in by_thread.items())


class Failing(dict[str, Tensor]):
    """Blocks that cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("no memory")


def test_a_failure_of_the_thread_is_raised_with_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    average = MovingAverage(drawn(0), 0.9, is_asynchronous=True)
    monkeypatch.setattr(average, "_add", lambda _blocks: Failing().items())
    average.update()
    with pytest.raises(RuntimeError, match="no memory"):
        average.tensors()


def merged(config: PmaConfig, live: dict[str, Tensor], steps: range, start: MergedWeights | None = None) -> None:
    """Move and merge."""
    now = [0]
    average = MergedWeights(live, config, lambda: now[0])
    if start is not None:
        for name, tensor in start.tensors().items():
            average.tensors()[name].copy_(tensor)
    for step in steps:
        now[0] = step
        move(live, step + 1)
        average.update()


@pytest.mark.parametrize("weighting", ["mean", "ema"])
def test_weights_are_merged_and_given_back(weighting: Any) -> None:
    """The formula of MindFormers' PmaAdamW, whose ema begins with zeros: ours with its first weights."""
    config = PmaConfig(interval_steps=3, count=4, weighting=weighting, alpha=0.2)
    live, reference = drawn(0), {name: value.double() for name, value in drawn(0).items()}
    merged(config, live, range(STEPS))
    taken: list[dict[str, Tensor]] = []
    for step in range(1, STEPS + 1):
        reference = {name: 0.9 * reference[name] + 0.1 * value.double() for name, value in drawn(step).items()}
        if step % 3:
            continue
        taken.append(reference)
        if len(taken) == 4:
            shares = [1 / 4] * 4 if weighting == "mean" else [0.8**3, 0.2 * 0.8**2, 0.2 * 0.8, 0.2]
            reference = {
                name: sum((share * one[name] for share, one in zip(shares, taken, strict=True)), torch.zeros(()))
                for name in reference
            }
            taken = []
    for name, value in live.items():
        torch.testing.assert_close(value.double(), reference[name], rtol=1e-6, atol=1e-6)


def test_a_merge_goes_on_after_a_restart() -> None:
    config = PmaConfig(interval_steps=2, count=5)
    through, live = drawn(0), drawn(0)
    merged(config, through, range(20))
    now = [0]
    first = MergedWeights(live, config, lambda: now[0])
    for step in range(7):
        now[0] = step
        move(live, step + 1)
        first.update()
    merged(config, live, range(7, 20), start=first)
    assert all(torch.equal(live[name], value) for name, value in through.items())


def test_the_moving_average_is_of_what_training_goes_on_with() -> None:
    config = AveragesConfig.model_validate({"ema": {"decay": 0.5}, "pma": {"interval_steps": 1, "count": 2}})
    live, bias = drawn(0), {"bias": torch.zeros(3)}
    averages = Averages(config, live, bias, lambda: updates)
    before = {name: value.clone() for name, value in live.items()}
    assert set(averages.tensors()) == {"pma/matrix", "pma/norm", "ema/matrix", "ema/norm", "ema/bias"}
    for updates in range(2):
        for value in (*live.values(), *bias.values()):
            value.fill_(float(updates + 1))
        averages.update()
    merged_value = 0.8 * 1 + 0.2 * 2
    for name, value in live.items():
        torch.testing.assert_close(value, torch.full_like(value, merged_value))
        expected = 0.25 * before[name] + 0.25 * 1 + 0.5 * merged_value
        torch.testing.assert_close(averages.tensors()[f"ema/{name}"], expected)
    torch.testing.assert_close(averages.tensors()["ema/bias"], torch.full((3,), 1.25))


def test_nothing_is_kept_where_nothing_is_wanted() -> None:
    averages = Averages(AveragesConfig(), drawn(0), {}, lambda: 0)
    averages.update()
    assert averages.tensors() == {}
