"""Runs that go on in one layout after another, each leg from the checkpoint of the one before it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A part of a run: the name of its layout, how many processes it takes, and its parallelism section."""

    name: str
    size: int = 1
    parallelism: str = "{}"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The legs of a run, in their order. Legs that do not go on each start from the same weights, if `model` names
    any, in a folder of their own."""

    name: str
    legs: Sequence[Leg]
    model: tuple[str, ...] = ()
    goes_on: bool = True


ALONE = Leg(name="alone")
FSDP3 = Leg(name="fsdp3", size=3)
FSDP4 = Leg(name="fsdp4", size=4)
ZERO1 = Leg(name="zero1", size=2, parallelism="{sharded: optimizer}")
HSDP = Leg(name="hsdp", size=4, parallelism="{data_parallel_replicate: 2}")
REPLICATED = Leg(name="dp2", size=2, parallelism="{data_parallel_replicate: 2}")
TP2 = Leg(name="tp2", size=2, parallelism="{tensor_parallel: 2}")
TP2_DP2 = Leg(name="tp2_dp2", size=4, parallelism="{tensor_parallel: 2}")
TP4 = Leg(name="tp4", size=4, parallelism="{tensor_parallel: 4}")
EP4 = Leg(name="ep4", size=4, parallelism="{expert_parallel: 4}")
CP2 = Leg(name="cp2", size=2, parallelism="{context_parallel: 2}")
CP2_TP2 = Leg(
    name="cp2_tp2",
    size=4,
    parallelism="{context_parallel: 2, tensor_parallel: 2, context: {kind: all_to_all}}",
)
PP2 = Leg(name="pp2", size=2, parallelism="{pipeline_parallel: 2}")
PP4 = Leg(name="pp4", size=4, parallelism="{pipeline_parallel: 4}")
ZBV = Leg(name="pp2_zbv", size=2, parallelism="{pipeline_parallel: 2, pipeline: {schedule: zbv_zero_bubble}}")
ZBV_EP2 = Leg(
    name="pp2_zbv_dp2_ep2",
    size=4,
    parallelism="{pipeline_parallel: 2, expert_parallel: 2, pipeline: {schedule: zbv_zero_bubble}}",
)
ZBV_TP2 = Leg(
    name="pp2_zbv_tp2",
    size=4,
    parallelism="{pipeline_parallel: 2, tensor_parallel: 2, pipeline: {schedule: zbv_zero_bubble}}",
)
PP2_CP2 = Leg(name="pp2_cp2", size=4, parallelism="{pipeline_parallel: 2, context_parallel: 2}")
LOOPED = Leg(
    name="pp2_looped_dp2_tp2_ep4",
    size=8,
    parallelism="{pipeline_parallel: 2, tensor_parallel: 2, expert_parallel: 4, "
    "pipeline: {schedule: interleaved_1f1b}}",
)
PP2_CP2_EP4 = Leg(
    name="pp2_cp2_dp2_ep4",
    size=8,
    parallelism="{pipeline_parallel: 2, context_parallel: 2, expert_parallel: 4}",
)
HSDP_TP2_EP2 = Leg(
    name="hsdp_tp2_ep2",
    size=8,
    parallelism="{data_parallel_replicate: 2, tensor_parallel: 2, expert_parallel: 2}",
)

EXPERTS = (
    "model.num_hidden_layers=4",
    "model.initializer_range=0.1",
    "model.attention.num_attention_heads=4",
    "model.feed_forward.router={num_experts_per_tok: 2, bias_update_rate: 0.01, sequence_balance_loss: 0.01}",
)
"""The decoder of the tiny run with four layers; the last stage has a mixture, in its layer that predicts ahead."""
TIED = (
    "model.num_hidden_layers=4",
    "model.initializer_range=0.1",
    "model.family=llama",
    "model.attention={kind: gqa, num_attention_heads: 4, num_key_value_heads: 4}",
    "model.feed_forward={kind: dense, intermediate_size: 64}",
    "model.multi_token_prediction=null",
    "model.tie_word_embeddings=true",
)

HUB = ("model={from_hf: hub}",)
"""The weights that the test has left beside the run."""

QUICK = (
    Chain(name="experts", model=EXPERTS, legs=(ALONE, PP2, TP2_DP2, ZBV_EP2, HSDP)),
    Chain(name="tied", model=TIED, legs=(PP2, ALONE)),
    Chain(name="hub", model=HUB, legs=(ALONE, PP2, CP2), goes_on=False),
)
"""On four processes."""

MANY = (
    Chain(
        name="experts",
        model=EXPERTS,
        legs=(
            *(ALONE, PP2, FSDP4, ZBV, EP4, HSDP, TP2_DP2, PP4, CP2, FSDP3, ZBV_EP2, TP4),
            *(LOOPED, REPLICATED, PP2_CP2_EP4, HSDP_TP2_EP2, CP2_TP2, ZERO1, PP2_CP2, ALONE),
        ),
    ),
    Chain(name="tied", model=TIED, legs=(PP2, FSDP4, ZBV_TP2, ALONE, PP4, TP2, ZBV, HSDP)),
    Chain(name="hub", model=HUB, legs=(ALONE, PP4, ZBV_EP2, PP2_CP2, CP2_TP2, FSDP3, LOOPED), goes_on=False),
)
"""On eight."""
