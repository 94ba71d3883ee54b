"""Verdicts: what is not finite is skipped up to a limit or ends the run; requests to stop are agreed by all ranks."""

import math
import os
import signal

import pytest

from firstlight.base.peers import Alone, Peers
from firstlight.base.report import LossReport, StepReport, Update
from firstlight.config.training import ResilienceConfig
from firstlight.resilience.guard import Guard
from firstlight.resilience.verdict import Proceed, Stop
from tests.unit.resilience.peers import ToldPeers


def report(step: int = 7, *, applied: bool = True, grad_norm: float = 0.5) -> StepReport:
    return StepReport(
        step=step,
        loss=LossReport(total=2.5, parts={"lm": 2.5}, tokens=8),
        update=Update(applied=applied, grad_norm=grad_norm),
        learning_rate=1e-3,
        samples=step,
        tokens=8 * step,
        global_batch_size=1,
        sequence_length=8,
    )


def skipped(step: int = 7) -> StepReport:
    return report(step, applied=False, grad_norm=math.nan)


def guard(*, on_not_finite: str = "skip", limit: int = 3, peers: Peers | None = None) -> Guard:
    config = ResilienceConfig.model_validate({"on_not_finite": on_not_finite, "max_skipped_steps": limit})
    return Guard(config, peers or Alone())


@pytest.mark.parametrize("on_not_finite", ["skip", "stop"])
def test_an_applied_step_goes_on(on_not_finite: str) -> None:
    one = guard(on_not_finite=on_not_finite, limit=1)
    assert [one.judge(report(step)) for step in range(5)] == [Proceed()] * 5


def test_a_skipped_step_goes_on_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert guard().judge(skipped()) == Proceed()
    assert caplog.messages == ["step 7: gradient norm is nan, loss 2.5; not applied"]


def test_a_skipped_step_ends_a_run_that_wants_to_stop() -> None:
    assert guard(on_not_finite="stop").judge(skipped()) == Stop(
        reason="step 7: gradient norm is nan, loss 2.5; not applied (resilience.on_not_finite = stop)", exit_code=1
    )


def test_so_many_skipped_steps_in_a_row_end_the_run() -> None:
    one = guard(limit=3)
    assert [one.judge(skipped(step)) for step in (1, 2)] == [Proceed()] * 2
    assert one.judge(skipped(3)) == Stop(
        reason="step 3: gradient norm is nan, loss 2.5; not applied, 3 times in a row (resilience.max_skipped_steps)",
        exit_code=1,
    )


def test_an_applied_step_between_starts_the_count_anew() -> None:
    one = guard(limit=2)
    assert [one.judge(step) for step in (skipped(1), report(2), skipped(3), report(4))] == [Proceed()] * 4
    assert isinstance((one.judge(skipped(5)), one.judge(skipped(6)))[1], Stop)


def test_the_count_survives_a_restart() -> None:
    before = guard(limit=3)
    for step in (1, 2):
        before.judge(skipped(step))
    after = guard(limit=3)
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == before.state_dict()
    assert isinstance(after.judge(skipped(3)), Stop)
    assert guard(limit=3).judge(skipped(3)) == Proceed()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_stop_ends_the_run_after_the_step(number: signal.Signals) -> None:
    one = guard()
    with one.armed():
        assert one.judge(report()) == Proceed()
        os.kill(os.getpid(), number)
        assert one.judge(report()) == Stop(reason=f"preempted by {number.name}", exit_code=75)


def test_a_request_to_another_rank_ends_this_one_too() -> None:
    peers = ToldPeers(others_say=True)
    assert guard(peers=peers).judge(report()) == Stop(reason="preempted by a request to another rank", exit_code=75)
    assert peers.asked == ["any_true"]


def test_without_a_request_all_go_on() -> None:
    peers = ToldPeers(others_say=False)
    assert guard(peers=peers).judge(report()) == Proceed()
    assert peers.asked == ["any_true"]


def test_a_failure_is_told_before_a_request_to_stop() -> None:
    one = guard(on_not_finite="stop")
    with one.armed():
        os.kill(os.getpid(), signal.SIGTERM)
        verdict = one.judge(skipped())
    assert isinstance(verdict, Stop)
    assert verdict.exit_code == 1


def test_a_skipped_step_with_a_request_is_preempted() -> None:
    verdict = guard(peers=ToldPeers(others_say=True)).judge(skipped())
    assert isinstance(verdict, Stop)
    assert verdict.exit_code == 75


def test_who_else_may_ask_to_stop() -> None:
    one = Guard(ResilienceConfig(), Alone(), lambda step: "training.stop_at_step" if step == 8 else None)
    assert one.judge(report(7)) == Proceed()
    assert one.judge(report(8)) == Stop(reason="preempted by training.stop_at_step", exit_code=75)
