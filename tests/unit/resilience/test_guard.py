"""Verdicts: what is not finite is skipped up to a limit or ends the run; requests to stop are agreed by all ranks."""

import json
import math
import os
import random
import signal
from dataclasses import replace
from typing import Any

import pytest

from firstlight.base.peers import Alone, Peers
from firstlight.base.report import Corruption, LossReport, StepReport, Update
from firstlight.config.training import ResilienceConfig
from firstlight.resilience.guard import Guard
from firstlight.resilience.verdict import Proceed, Rewind, Stop
from tests.unit.resilience.peers import ToldPeers


def report(
    step: int = 7, *, applied: bool = True, grad_norm: float = 0.5, loss: float = 2.5, phase: int = 0
) -> StepReport:
    return StepReport(
        step=step,
        loss=LossReport(total=loss, parts={"lm": loss}, tokens=8),
        update=Update(applied=applied, grad_norm=grad_norm),
        learning_rate=1e-3,
        samples=step,
        tokens=8 * step,
        global_batch_size=1,
        sequence_length=8,
        phase=phase,
    )


def skipped(step: int = 7) -> StepReport:
    return report(step, applied=False, grad_norm=math.nan)


def guard(
    *, on_not_finite: str = "skip", limit: int = 3, peers: Peers | None = None, rewind: dict[str, Any] | None = None
) -> Guard:
    section = {"on_not_finite": on_not_finite, "max_skipped_steps": limit, "rewind": rewind or {"times": 0}}
    return Guard(ResilienceConfig.model_validate(section), peers or Alone())


def spiky(window: int = 8, for_steps: int = 2) -> Guard:
    """A guard that has seen a quiet window."""
    one = guard(rewind={"spike": {"window": window, "for_steps": for_steps}})
    for step in range(1, window + 1):
        assert one.judge(report(step, loss=2.5 + 0.01 * (-1) ** step)) == Proceed()
    return one


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


def test_skipped_steps_that_do_not_end_go_back_as_often_as_allowed() -> None:
    one = guard(limit=2, rewind={"times": 1})
    assert [one.judge(step) for step in (report(1), skipped(2))] == [Proceed()] * 2
    verdict = one.judge(skipped(3))
    assert isinstance(verdict, Rewind)
    assert (verdict.first_step, verdict.last_step) == (2, 3)
    one.num_rewinds += 1
    stop = one.judge(skipped(4))
    assert isinstance(stop, Stop)
    assert stop.reason.endswith("(resilience.max_skipped_steps); 1 rewinds are used up (resilience.rewind.times)")


def test_a_spike_is_said_and_several_go_back(caplog: pytest.LogCaptureFixture) -> None:
    one = spiky()
    assert one.judge(report(9, loss=2.6)) == Proceed()
    assert caplog.messages == ["step 9: loss 2.6 is a spike, more than 2.56414"]
    verdict = one.judge(report(10, loss=2.7))
    assert isinstance(verdict, Rewind)
    assert (verdict.first_step, verdict.last_step) == (9, 10)
    assert verdict.reason == (
        "step 10: loss 2.7 is a spike, more than 2.56414, 2 times in a row (resilience.rewind.spike)"
    )


def test_a_single_spike_is_none_of_what_is_usual() -> None:
    one = spiky()
    verdicts = [one.judge(report(step, loss=loss)) for step, loss in ((9, 9.0), (10, 2.5), (11, 9.0), (12, 2.5))]
    assert verdicts == [Proceed()] * 4
    assert one.bad_since is None


def test_skips_between_spikes_count_from_the_first_bad_step() -> None:
    one = spiky()
    assert [one.judge(step) for step in (report(9, loss=9.0), skipped(10))] == [Proceed()] * 2
    verdict = one.judge(report(11, loss=9.0))
    assert isinstance(verdict, Rewind)
    assert verdict.first_step == 9


@pytest.mark.parametrize("change", [{"phase": 1}, {"loss": 2.55}])
def test_what_is_no_spike(change: dict[str, Any]) -> None:
    one = spiky()
    for step in range(9, 14):
        assert one.judge(report(step, **{"loss": 9.0} | change)) == Proceed()
    assert one.bad_since is None


def test_the_window_survives_a_restart() -> None:
    before = spiky()
    before.judge(report(9, loss=9.0))
    after = guard(rewind={"spike": {"window": 8, "for_steps": 2}})
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    verdict = after.judge(report(10, loss=9.0))
    assert isinstance(verdict, Rewind)
    assert verdict.first_step == 9


def test_gaussian_losses_have_no_spikes() -> None:
    source = random.Random(0)
    one = guard(rewind={"spike": {}})
    assert all(one.judge(report(step, loss=source.gauss(2.5, 0.05))) == Proceed() for step in range(1, 10_001))
    assert one.bad_since is None


def test_wrong_numbers_go_back_to_the_last_good_look_or_end_the_run_unsaved() -> None:
    found = Corruption(what="ranks 0, 1 differ", good_step=4)
    bad = replace(report(6), corruption=found)
    fact = "step 6: ranks 0, 1 differ; what was saved after step 4 may be wrong"
    back = Rewind(first_step=5, last_step=6, reason=fact, leaves_out_samples=False)
    stop = Stop(reason=fact, exit_code=1, is_state_sound=False)
    one = guard(rewind={"times": 1})
    assert one.judge(bad) == back
    one.num_rewinds = 1
    assert one.judge(bad) == stop
    lasting = replace(report(6), corruption=replace(found, is_lasting=True))
    assert guard(rewind={"times": 1}).judge(lasting) == stop
    section = ResilienceConfig.model_validate({"on_corruption": "stop"})
    assert Guard(section, Alone()).judge(bad) == stop
