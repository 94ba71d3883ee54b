"""Seconds of calls and passes, cost, and profiles that are fitted to a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.config.pipeline import PipelineConfig
from firstlight.config.recompute import FullRecompute
from firstlight.layout.mesh import Layout
from firstlight.layout.save_interval import young_daly_seconds
from firstlight.plan.calibration import calibrated, measured_step_seconds, scaled
from firstlight.plan.cost import cost_of
from firstlight.plan.forecast import forecast
from firstlight.plan.hardware import read_hardware
from firstlight.plan.links import Group, group_on, seconds_of_call
from firstlight.plan.work import Practice
from tests.unit.models.tiny_model import deepseek
from tests.unit.plan.planned import small_work

H100 = read_hardware("h100")
NODE, CLUSTER = Group(size=8, local=8), Group(size=16, local=8)


def test_groups_know_their_nodes() -> None:
    layout = Layout(pp=2, dp_shard=4, tp=4, ep=16)
    assert group_on(layout, "tp", 8) == Group(size=4, local=4)
    assert group_on(layout, "shard", 8) == Group(size=4, local=2)
    assert group_on(layout, "ep", 8) == Group(size=16, local=8)
    assert group_on(layout, "pp", 8) == Group(size=2, local=1)
    assert group_on(layout, "world", 8) == Group(size=32, local=8)


def test_a_gather_takes_its_bytes_over_the_slowest_link() -> None:
    node = H100.links.node
    expected = 7 / 8 * 1e9 / (node.bandwidth.value * node.efficiency.value) + 3 * node.latency_seconds.value
    assert seconds_of_call(H100, NODE, "all_gather", 1e9) == pytest.approx(expected)
    assert seconds_of_call(H100, NODE, "all_reduce", 1e9) == pytest.approx(2 * expected)
    assert seconds_of_call(H100, Group(size=2, local=1), "all_gather", 1e9) > seconds_of_call(
        H100, Group(size=2, local=2), "all_gather", 1e9
    )


def test_an_exchange_over_nodes_waits_for_what_leaves_them() -> None:
    link = H100.links.cluster
    away = 8 / 16 * 1e9 / (link.bandwidth.value * link.exchange_efficiency.value)
    assert seconds_of_call(H100, CLUSTER, "all_to_all", 1e9) == pytest.approx(away, rel=1e-2)


def test_recomputation_costs_a_forward_pass() -> None:
    plain, again = (forecast(small_work(recompute=one), H100) for one in (small_work().recompute, FullRecompute()))
    longer = again.passes[0].input - plain.passes[0].input
    # The embedding and the head are not computed again.
    assert 0 < longer < plain.passes[0].forward


def test_pairs_hide_what_travels_to_experts() -> None:
    layout, pipeline = Layout(pp=2, dp_shard=16, ep=8), PipelineConfig(schedule="dualpipe_v")
    wide = deepseek(hidden_size=2048, num_hidden_layers=8, feed_forward={"moe_intermediate_size": 1024})
    nodes = H100.model_copy(update={"devices_per_node": H100.devices_per_node.model_copy(update={"value": 4})})
    shape = {"model": wide, "sequence_length": 4096}
    steps = [
        forecast(small_work(layout, pipeline, practice=Practice(hides_experts=hides), **shape), nodes).step.total
        for hides in ("paired", "shared_expert", "no")
    ]
    assert steps == sorted(steps)
    assert steps[0] < steps[2]


def test_a_fitted_profile_explains_the_run_that_it_was_fitted_to() -> None:
    work = small_work()
    slower = scaled(H100, 0.5, "a slower device")
    seconds = forecast(work, slower).step.total
    found = calibrated(H100, work, seconds, "metrics.jsonl")
    assert forecast(work, found).step.total == pytest.approx(seconds, rel=2e-3)
    assert found.efficiency.memory.basis == "measured"
    assert found.efficiency.memory.source == "metrics.jsonl"
    assert found.links == H100.links


def test_a_time_that_computation_cannot_explain_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be explained by the speed of computation on h100"):
        calibrated(H100, small_work(), 1e4, "metrics.jsonl")


def test_the_median_of_measured_steps_leaves_the_first_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"kind": "step", "step_seconds": seconds} for seconds in (90.0, 2.0, 3.0, 4.0)]
    path.write_text("\n".join(json.dumps(line) for line in [*lines, {"kind": "evaluation", "step": 4}]))
    assert measured_step_seconds(path) == 3.0
    path.write_text(json.dumps({"kind": "evaluation"}))
    with pytest.raises(InputError, match="has no step with step_seconds"):
        measured_step_seconds(path)


def test_cost_is_devices_times_time_and_failures_come_on_top() -> None:
    plan = forecast(small_work(Layout(dp_shard=64)), H100)
    found = cost_of(plan, 1e9)
    steps = 1e9 / plan.work.tokens_per_step
    assert found.seconds * found.effective == pytest.approx(steps * plan.step.total)
    assert found.device_hours == pytest.approx(found.seconds * 64 / 3600)
    assert found.price == pytest.approx(found.device_hours * H100.price_per_hour.value)
    between = H100.failures.node_hours.value * 3600 / 8
    assert found.save_every_seconds == young_daly_seconds(H100.failures.checkpoint_seconds.value, between)
    larger = cost_of(forecast(small_work(Layout(dp_shard=6400)), H100), 1e9)
    assert larger.effective < found.effective < 1


def test_speed_and_utilisation_are_those_of_the_step() -> None:
    plan = forecast(small_work(), H100)
    speed = plan.work.tokens_per_step / plan.step.total / 2
    assert plan.tokens_per_second_per_device == pytest.approx(speed)
    assert plan.mfu == pytest.approx(speed * plan.flops_causal / 989.4e12)
    more = forecast(replace(plan.work, micro_batches=16), H100)
    assert more.step.total > plan.step.total
