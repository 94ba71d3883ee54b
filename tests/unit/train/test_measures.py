"""Norms by group against the whole norm, on one rank; tests/equivalence/test_shown_figures.py has more of them."""

import math

import pytest
import torch

from firstlight.base.peers import Alone
from firstlight.layout.mesh import Layout
from firstlight.parallel.last_step import LastStep
from firstlight.train.measures import Measured, StepMeasures, UpdateWatch
from firstlight.train.module_groups import GROUPS, group_of, layer_of


class Optimizing:
    """Two parameters' squares, and a moment of each."""

    def gradient_squares(self) -> dict[str, float]:
        return {"layers.0.attention.o_proj.weight": 9.0, "layers.1.feed_forward.experts.up_proj": 16.0}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"exp_avg/{name}": torch.full((4,), 0.5) for name in self.gradient_squares()}


def measures(kinds: list[str], last: LastStep | None = None) -> tuple[StepMeasures, UpdateWatch]:
    parameters = {name: torch.nn.Parameter(torch.ones(4)) for name in Optimizing().gradient_squares()}
    watch = UpdateWatch(parameters=parameters, is_wanted="updates" in kinds)
    measured = Measured(
        parameters=parameters,
        mixture_names=["layers.1"],
        num_layers=2,
        copies=lambda _block: 1,
        last=last or LastStep(),
        health=lambda: {"celsius": 40.0},
    )
    return StepMeasures(kinds, measured, Optimizing(), watch, layout=Layout(), peers=Alone()), watch


def test_by_default_norms_by_group_and_nothing_else() -> None:
    taken = measures([])[0].take({"memory_bytes": 5.0})
    assert taken.figures == {"grad_norm/attention": 3.0, "grad_norm/experts": 4.0}
    assert taken.ranks == {}


def test_all_that_can_be_asked_for() -> None:
    last = LastStep(own_lm=torch.tensor(6.0), own_targets=torch.tensor(2.0), load_me=torch.tensor([[3.0, 1.0]]))
    everything, watch = measures(["ranks", "weights", "updates", "optimizer_state", "layers", "device"], last)
    everything.expect()
    watch.before_update()
    with torch.no_grad():
        for parameter in watch.parameters.values():
            parameter.add_(0.25)
    taken = everything.take({"memory_bytes": 5.0, "step_seconds": 1.0, "seconds/data": 0.5})
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert taken.figures == pytest.approx(
        {
            "grad_norm/attention": 3.0,
            "grad_norm/experts": 4.0,
            "layer_grad_norm/0": 3.0,
            "layer_grad_norm/1": 4.0,
            "weight_norm/attention": 2.5,
            "weight_norm/experts": 2.5,
            "update_norm/attention": 0.5,
            "update_norm/experts": 0.5,
            "optimizer_norm/exp_avg": math.sqrt(2.0),
            "expert_load/layers.1/max_vio": 0.5,
            "expert_load/layers.1/entropy": entropy,
            "memory_bytes": 5.0,
            "device/celsius": 40.0,
        }
    )
    ranks = {name: values[0] for name, values in taken.ranks.items()}
    assert ranks == pytest.approx(
        {
            "memory_bytes": 5.0,
            "step_seconds": 1.0,
            "data_seconds": 0.5,
            "loss": 3.0,
            "grad_norm": 5.0,
            "wait_seconds": 0,
        }
    )
    assert watch.before == {}, "the copies are let go"


def test_an_update_that_was_not_expected_is_not_kept() -> None:
    everything, watch = measures(["updates"])
    watch.before_update()
    assert watch.before == {}
    assert not [name for name in everything.take({}).figures if name.startswith("update_norm")]


def test_a_rank_without_the_last_layer_has_no_loss() -> None:
    last = LastStep(own_lm=torch.tensor(0.0), own_targets=torch.tensor(2.0))
    taken = measures(["ranks"], last)[0].take({"memory_bytes": 1.0})
    assert math.isnan(taken.ranks["loss"][0])


@pytest.mark.parametrize(
    ("name", "group", "layer"),
    [
        ("embedding.weight", "embedding", None),
        ("layers.12.attention_norm.weight", "norm", 12),
        ("layers.0.attention.q_a_norm.weight", "norm", 0),
        ("layers.0.attention.o_proj.weight", "attention", 0),
        ("layers.0.feed_forward.up_proj.weight", "feed_forward", 0),
        ("layers.1.feed_forward.router.weight", "router", 1),
        ("layers.1.feed_forward.experts.up_proj", "experts", 1),
        ("layers.1.feed_forward.shared_expert.up_proj.weight", "shared_expert", 1),
        ("mtp.0.block.attention.o_proj.weight", "mtp", None),
        ("output_norm.weight", "norm", None),
        ("head.weight", "head", None),
    ],
)
def test_groups(name: str, group: str, layer: int | None) -> None:
    assert (group_of(name), layer_of(name)) == (group, layer)
    assert group in GROUPS
