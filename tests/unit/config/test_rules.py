"""Facts across sections: each broken rule says what, the value, what would do, and where it was written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.config import (
    context_rules,
    kernel_rules,
    phase_rules,
    pipeline_rules,
    precision_rules,
    recipe_rules,
    rules,
)
from firstlight.config.load import load
from firstlight.config.rules import RULES, Rule
from tests.runs import TINY_YAML
from tests.unit.config.yaml_file import loaded, place, written

GQA = "{kind: gqa, num_attention_heads: 4}"
SECOND_SET = "data.evaluate=[{name: one, path: a}, {name: two, path: b}, {name: one, path: c}]"


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a rule is broken, and what is said then; `(...)` at the end is the place, where it is not the last --set."""

    rule: Rule
    overrides: tuple[str, ...]
    line: str
    world_size: int = 1
    written: str | None = None
    place_of: int = -1
    """Which of the overrides is the place."""

    @property
    def place(self) -> str:
        return place(TINY_YAML, self.written) if self.written else f"--set {self.overrides[self.place_of]}"


CASES = (
    Case(
        rule=rules.family_has_the_choices,
        overrides=(f"model.attention={GQA}",),
        line="model.attention.kind = gqa is not a part of model.family = deepseek_v3; use mla",
    ),
    Case(
        rule=rules.family_has_the_choices,
        overrides=("model.multi_token_prediction=null", f"model.attention={GQA}", "model.family=llama"),
        line="model.feed_forward.kind = moe is not a part of model.family = llama; use dense",
        written="feed_forward:",
    ),
    Case(
        rule=rules.family_has_the_choices,
        overrides=("model.feed_forward.router={scoring: softmax, num_experts_per_tok: 2}",),
        line="model.feed_forward.router = softmax is not a part of model.family = deepseek_v3; use sigmoid",
    ),
    Case(
        rule=rules.family_has_the_choices,
        overrides=(
            "model.multi_token_prediction=null",
            "model.family=llama",
            "model.attention={kind: gqa, num_attention_heads: 4, qk_norm: per_head}",
        ),
        line="model.attention.qk_norm = per_head is not a part of model.family = llama; use none",
    ),
    Case(
        rule=rules.family_has_the_choices,
        overrides=("model.family=gpt_oss", "model.attention={kind: gqa, num_attention_heads: 4}"),
        line="model.attention.has_sinks = false is not a part of model.family = gpt_oss; use true",
    ),
    Case(
        rule=rules.mtp_needs_a_family_with_it,
        overrides=("model.family=llama", f"model.attention={GQA}"),
        line="model.multi_token_prediction is not a part of model.family = llama; use null, or family deepseek_v3 or "
        "glm4_moe",
        written="multi_token_prediction",
    ),
    Case(
        rule=rules.positions_cover_the_sequence,
        overrides=("data.train.sequence_length=33",),
        line="data.train.sequence_length = 33 is more than model.max_position_embeddings = 32; use at most 32, "
        "or a model with more positions",
    ),
    Case(
        rule=recipe_rules.schedule_fits_the_steps,
        overrides=("lr_scheduler.type=cosine", "lr_scheduler.warmup_steps=5"),
        line="lr_scheduler: warmup_steps = 5 take more than training.steps = 4; use at most 4 together",
    ),
    Case(
        rule=recipe_rules.schedule_fits_the_steps,
        overrides=("lr_scheduler={type: warmup_stable_decay, warmup_steps: 2, decay_steps: 3}",),
        line="lr_scheduler: warmup_steps = 2 and decay_steps = 3 take more than training.steps = 4; "
        "use at most 4 together",
    ),
    Case(
        rule=recipe_rules.schedule_fits_the_steps,
        overrides=("lr_scheduler={type: linear, warmup_steps: {tokens: 10000}}",),
        line="lr_scheduler: warmup_steps = 79 take more than training.steps = 4; use at most 4 together",
    ),
    Case(
        rule=recipe_rules.heads_can_be_split,
        overrides=(
            "model.family=llama",
            "model.multi_token_prediction=null",
            "model.feed_forward={kind: dense, intermediate_size: 64}",
            f"model.attention={GQA}",
            "optimizer.type=muon",
            "optimizer.splits_heads=true",
        ),
        line="optimizer.splits_heads = true does not go with model.attention.kind = gqa; use false, or kind mla",
    ),
    Case(
        rule=recipe_rules.heads_can_be_clipped,
        overrides=(
            "model.family=qwen3",
            "model.multi_token_prediction=null",
            "model.feed_forward={kind: dense, intermediate_size: 64}",
            "model.attention={kind: gqa, num_attention_heads: 4, qk_norm: per_head}",
            "optimizer.qk_clip={}",
        ),
        line="optimizer.qk_clip has no effect with model.attention.qk_norm = per_head, which limits logits itself; use "
        "null, or qk_norm none",
    ),
    Case(
        rule=rules.experts_divide,
        overrides=("parallelism.expert_parallel=3",),
        line="parallelism.expert_parallel = 3 does not divide model.feed_forward.n_routed_experts = 4; use 1, 2, 4",
    ),
    Case(
        rule=rules.experts_divide,
        overrides=("parallelism.data_parallel_replicate=2", "parallelism.expert_parallel=4"),
        world_size=4,
        line="parallelism.expert_parallel = 4 does not divide the 2 ranks of data_parallel_shard x context_parallel x "
        "tensor_parallel; use 1, 2",
    ),
    Case(
        rule=rules.experts_divide,
        overrides=(
            "model.multi_token_prediction=null",
            "model.feed_forward={kind: dense, intermediate_size: 64}",
            "parallelism.expert_parallel=2",
        ),
        world_size=2,
        line="parallelism.expert_parallel = 2, but the model has no experts; use 1",
    ),
    Case(
        rule=rules.widths_of_experts_divide,
        overrides=("parallelism.expert_tensor_parallel=3",),
        world_size=3,
        line="parallelism.expert_tensor_parallel = 3 does not divide model.feed_forward.moe_intermediate_size = 16; "
        "use 1, 2, 4, 8, 16",
    ),
    Case(
        rule=rules.widths_of_experts_divide,
        overrides=(
            "model.hidden_size=36",
            "model.family=gpt_oss",
            "model.multi_token_prediction=null",
            "model.attention={kind: gqa, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8}",
            "model.feed_forward={kind: moe, moe_intermediate_size: 16, n_routed_experts: 4, n_shared_experts: 0, "
            "has_expert_bias: true, router: {scoring: topk_softmax, num_experts_per_tok: 2}}",
            "training.global_batch_size=16",
            "parallelism.expert_tensor_parallel=8",
        ),
        world_size=8,
        line="parallelism.expert_tensor_parallel = 8 does not divide model.hidden_size, the width of the experts' last "
        "bias, = 36; use 1, 2, 4",
    ),
    Case(
        rule=rules.widths_of_experts_divide,
        overrides=("parallelism.expert_parallel=2", "parallelism.expert_tensor_parallel=2"),
        world_size=2,
        line="parallelism.expert_tensor_parallel = 2 x expert_parallel = 2 does not divide the 2 ranks of "
        "data_parallel_shard x context_parallel x tensor_parallel; use 1",
    ),
    Case(
        rule=rules.widths_of_experts_divide,
        overrides=("parallelism.expert_parallel=4", "parallelism.expert_tensor_parallel=2"),
        world_size=2,
        line="parallelism.expert_tensor_parallel = 2 x expert_parallel = 4 does not divide the 2 ranks of "
        "data_parallel_shard x context_parallel x tensor_parallel; use 1, 2 with an expert_parallel that divides the "
        "rest",
    ),
    Case(
        rule=rules.widths_of_experts_divide,
        overrides=(
            "model.multi_token_prediction=null",
            "model.feed_forward={kind: dense, intermediate_size: 64}",
            "parallelism.expert_tensor_parallel=2",
        ),
        world_size=2,
        line="parallelism.expert_tensor_parallel = 2, but the model has no experts; use 1",
    ),
    Case(
        rule=rules.tensors_divide,
        overrides=("model.vocab_size=301", "parallelism.tensor_parallel=2"),
        world_size=2,
        line="parallelism.tensor_parallel = 2 does not divide model.vocab_size = 301; use 1",
    ),
    Case(
        rule=rules.tensors_divide,
        overrides=("parallelism.tensor_parallel=4",),
        world_size=4,
        line="parallelism.tensor_parallel = 4 does not divide model.attention.num_attention_heads = 2; use 1, 2",
    ),
    Case(
        rule=rules.tensors_divide,
        overrides=(
            "model.multi_token_prediction=null",
            "model.attention={kind: gqa, num_attention_heads: 4, num_key_value_heads: 2}",
            "parallelism.tensor_parallel=4",
        ),
        world_size=4,
        line="parallelism.tensor_parallel = 4 does not divide model.attention.num_key_value_heads = 2; use 1, 2",
    ),
    Case(
        rule=rules.tensors_divide,
        overrides=("model.feed_forward.intermediate_size=63", "parallelism.tensor_parallel=2"),
        world_size=2,
        line="parallelism.tensor_parallel = 2 does not divide model.feed_forward.intermediate_size = 63; use 1",
    ),
    Case(
        rule=rules.tensors_divide,
        overrides=("model.feed_forward.moe_intermediate_size=15", "parallelism.tensor_parallel=2"),
        world_size=2,
        line="parallelism.tensor_parallel = 2 does not divide model.feed_forward.moe_intermediate_size x "
        "n_shared_experts = 15; use 1",
    ),
    Case(
        rule=rules.tensors_divide,
        overrides=("data.train.sequence_length=31", "parallelism.tensor_parallel=2"),
        world_size=2,
        line="parallelism.tensor_parallel = 2 does not divide data.train.sequence_length = 31; use 1",
    ),
    Case(
        rule=rules.capacity_is_measured_whole,
        overrides=("parallelism.tensor_parallel=2", "model.feed_forward.router.capacity_factor=1.5"),
        world_size=2,
        line="model.feed_forward.router.capacity_factor = 1.5 does not go with parallelism.tensor_parallel = 2; "
        "use null, or tensor_parallel 1",
    ),
    Case(
        rule=rules.capacity_is_measured_whole,
        overrides=("parallelism.context_parallel=2", "model.feed_forward.router.capacity_factor=1.5"),
        world_size=2,
        line="model.feed_forward.router.capacity_factor = 1.5 does not go with parallelism.context_parallel = 2; "
        "use null, or context_parallel 1",
    ),
    Case(
        rule=context_rules.mixture_divides,
        overrides=("parallelism.context_parallel=4", "parallelism.context={kind: mixed, all_to_all: 3}"),
        world_size=4,
        line="parallelism.context.all_to_all = 3 does not divide context_parallel = 4; use 1, 2, 4",
    ),
    Case(
        rule=context_rules.positions_divide,
        overrides=("data.train.sequence_length=30", "parallelism.context_parallel=2"),
        world_size=2,
        line="parallelism.context_parallel = 2 with context.kind = ring and tensor_parallel = 1 cuts sequences into 4 "
        "parts, which do not divide data.train.sequence_length = 30; use a multiple of 4, such as 32",
    ),
    Case(
        rule=context_rules.positions_divide,
        overrides=(
            "parallelism.tensor_parallel=2",
            "parallelism.context.kind=all_to_all",
            "model.attention.num_attention_heads=4",
            "data.train.sequence_length=30",
            "parallelism.context_parallel=2",
        ),
        world_size=4,
        line="parallelism.context_parallel = 2 with context.kind = all_to_all and tensor_parallel = 2 cuts sequences "
        "into 4 parts, which do not divide data.train.sequence_length = 30; use a multiple of 4, such as 32",
    ),
    Case(
        rule=context_rules.heads_divide,
        overrides=("parallelism.context.kind=all_to_all", "parallelism.context_parallel=4"),
        world_size=4,
        line="parallelism.context_parallel = 4 does not divide model.attention.num_attention_heads = 2, which "
        "context.kind = all_to_all deals out; use 1, 2, or kind ring",
    ),
    Case(
        rule=context_rules.heads_divide,
        overrides=(
            "parallelism.context_parallel=4",
            "parallelism.tensor_parallel=2",
            "parallelism.context={kind: mixed, all_to_all: 2}",
        ),
        world_size=8,
        line="parallelism.context.all_to_all = 2 x tensor_parallel = 2 does not divide "
        "model.attention.num_attention_heads = 2, which context.kind = mixed deals out; use 1, or kind ring",
    ),
    Case(
        rule=rules.axes_fill_the_world,
        overrides=("parallelism.tensor_parallel=2",),
        world_size=3,
        line="parallelism.tensor_parallel = 2 does not divide the 3 processes; use 1, 3",
    ),
    Case(
        rule=rules.axes_fill_the_world,
        overrides=("parallelism.tensor_parallel=2", "parallelism.data_parallel_shard=2"),
        world_size=2,
        line="parallelism.data_parallel_shard = 2 x tensor_parallel = 2 need 4 processes, "
        "and there are 2; start that many (--nproc-per-node), or use -1",
    ),
    Case(
        rule=rules.recompute_names_what_there_is,
        overrides=("recompute={kind: full, layers: {first: 30}}",),
        line="recompute.layers.first = 30 comes after the last layer; use at most 2",
    ),
    Case(
        rule=rules.recompute_names_what_there_is,
        overrides=("offload={activations: {first: 30}}",),
        line="offload.activations.first = 30 comes after the last layer; use at most 2",
    ),
    Case(
        rule=rules.recompute_names_what_there_is,
        overrides=(
            "model.multi_token_prediction=null",
            "model.family=llama",
            f"model.attention={GQA}",
            "model.feed_forward={kind: dense, intermediate_size: 64}",
            "recompute={kind: modules, modules: [attention, experts]}",
        ),
        line="recompute.modules names experts, and the model has none; leave it out",
    ),
    Case(
        rule=rules.recompute_names_what_there_is,
        overrides=(
            "model.feed_forward.n_shared_experts=0",
            "recompute={kind: selective, repeated_in: [shared_expert]}",
        ),
        line="recompute.repeated_in names shared_expert, and the model has none; leave it out",
    ),
    Case(
        rule=rules.axes_fill_the_world,
        overrides=("parallelism.data_parallel_replicate=3",),
        world_size=4,
        line="parallelism.data_parallel_replicate = 3 does not divide the 4 processes; use 1, 2, 4",
    ),
    Case(
        rule=rules.axes_fill_the_world,
        overrides=("parallelism.data_parallel_replicate=2", "parallelism.data_parallel_shard=4"),
        world_size=2,
        line="parallelism.data_parallel_shard = 4 x data_parallel_replicate = 2 need 8 processes, and there are 2; "
        "start that many (--nproc-per-node), or use -1",
    ),
    Case(
        rule=pipeline_rules.schedule_has_the_stages,
        overrides=("parallelism.pipeline={schedule: 1f1b, stages_per_rank: 2}",),
        line="parallelism.pipeline.stages_per_rank = 2 does not go with schedule = 1f1b; use 1",
    ),
    Case(
        rule=pipeline_rules.schedule_has_the_stages,
        overrides=("parallelism.pipeline={schedule: looped_bfs, stages_per_rank: 1}",),
        line="parallelism.pipeline.stages_per_rank = 1 does not go with schedule = looped_bfs; use 2 or more",
    ),
    Case(
        rule=pipeline_rules.layers_fill_the_stages,
        overrides=("training.global_batch_size=16", "parallelism.pipeline_parallel=8"),
        world_size=8,
        line="parallelism.pipeline_parallel = 8 x 1 stages of a rank are 8 stages for model.num_hidden_layers = 2; "
        "use at most 3 stages",
    ),
    *(
        Case(
            rule=pipeline_rules.layers_fill_the_stages,
            overrides=("parallelism.pipeline_parallel=2", f"parallelism.pipeline={{split: {split}}}"),
            world_size=2,
            line=line,
        )
        for split, line in (
            (
                "{kind: layers, layers: [1, 1, 1]}",
                "parallelism.pipeline.split.layers = [1, 1, 1] is for 3 stages, and there are 2; give 2",
            ),
            (
                "{kind: layers, layers: [1, 0]}",
                "parallelism.pipeline.split.layers = [1, 0] gives 1 layers to 2 stages, and model.num_hidden_layers = "
                "2; make +1 of them",
            ),
            (
                "{kind: offsets, offsets: [2, 1]}",
                "parallelism.pipeline.split.offsets = [2, 1] gives 5 layers to 2 stages, and model.num_hidden_layers = "
                "2; make -3 of them",
            ),
            (
                "{kind: layers, layers: [0, 2]}",
                "parallelism.pipeline.split.layers = [0, 2] leaves stages with [0, 2] layers; every stage but the last "
                "needs 1 or more",
            ),
        )
    ),
    *(
        Case(
            rule=pipeline_rules.micro_batches_fill_the_pipeline,
            overrides=(
                f"training.global_batch_size={2 * count}",
                "parallelism.pipeline_parallel=2",
                f"parallelism.pipeline={{schedule: {schedule}}}",
            ),
            world_size=2,
            line=f"training.global_batch_size = {2 * count} makes {count} micro-batches for each data-parallel rank, "
            f"too few or no whole rounds for parallelism.pipeline.schedule = {schedule} over pipeline_parallel = 2; "
            f"use {usable} micro-batches (of 2 sequences each)",
            place_of=0,
        )
        for schedule, count, usable in (
            ("1f1b", 1, "2 or more"),
            ("dualpipe_v", 3, "4 or more"),
            ("interleaved_1f1b", 5, "a multiple of 2"),
            ("interleaved_zero_bubble", 5, "a multiple of 2"),
        )
    ),
    Case(
        rule=rules.batch_divides,
        overrides=("training.global_batch_size=5",),
        line="training.global_batch_size = 5 is not a multiple of micro_batch_size = 2 x 1 data-parallel ranks = 2; "
        "use 4, or another micro_batch_size",
    ),
    Case(
        rule=rules.batch_divides,
        overrides=(),
        world_size=4,
        line="training.global_batch_size = 4 is not a multiple of micro_batch_size = 2 x 4 data-parallel ranks = 8; "
        "use 8, or another micro_batch_size",
        written="global_batch_size",
    ),
    Case(
        rule=rules.batch_divides,
        overrides=("training.global_batch_size={tokens: 96}",),
        line="training.global_batch_size = 96 tokens, which is 3 sequences, is not a multiple of micro_batch_size = 2 "
        "x 1 data-parallel ranks = 2; use 4, or another micro_batch_size",
    ),
    Case(
        rule=rules.positions_cover_the_sequence,
        overrides=("phases=[{begins_at: 2, sequence_length: 64}]",),
        line="phases.0.sequence_length = 64 is more than model.max_position_embeddings = 32; use at most 32, or a "
        "model with more positions",
    ),
    Case(
        rule=phase_rules.phases_follow_each_other,
        overrides=("phases=[{begins_at: 2, sequence_length: 16}, {begins_at: {samples: 5}, sequence_length: 32}]",),
        line="phases.1 begins where phases.0 does; give each a later begin than the one before",
    ),
    Case(
        rule=phase_rules.phases_follow_each_other,
        overrides=("phases=[{begins_at: 0, sequence_length: 16}]",),
        line="phases.0 begins where the run does; give each a later begin than the one before",
    ),
    Case(
        rule=phase_rules.weights_fit_the_sources,
        overrides=("phases=[{begins_at: 2, weights: [1, 2]}]",),
        line="phases.0.weights = [1.0, 2.0]; give one for each of the 1 sources of data.train, not all 0",
    ),
    Case(
        rule=pipeline_rules.micro_batches_fill_the_pipeline,
        overrides=(
            "parallelism.pipeline_parallel=2",
            "training.global_batch_size={samples: 8, ramp: {start: 4, over: 4}}",
        ),
        world_size=2,
        line="training.global_batch_size ramps over 5 sequences, which is not a multiple of micro_batch_size = 2 x 1 "
        "data-parallel ranks = 2, as a pipeline needs it; give ramp.start and ramp.increment as such multiples",
    ),
    Case(
        rule=rules.evaluation_has_data,
        overrides=("data.evaluate=[]", "training.evaluate_every_steps=2"),
        line="training.evaluate_every_steps = 2, but data.evaluate is empty; add a held-out set, or use 0",
    ),
    Case(
        rule=kernel_rules.attention_kernel_is_used,
        overrides=("parallelism.context_parallel=2", "kernels.attention=reference"),
        line="kernels.attention = reference does not go with parallelism.context_parallel = 2, which has its own; "
        "use auto",
        world_size=2,
    ),
    Case(
        rule=kernel_rules.attention_kernel_is_used,
        overrides=(
            "data.train.sequence_length=513",
            "model.max_position_embeddings=600",
            "kernels.attention=blocks",
        ),
        line="kernels.attention = blocks does not go with data.train.sequence_length = 513; blocks take 512 positions; "
        "use auto",
    ),
    Case(
        rule=kernel_rules.attention_kernel_is_used,
        overrides=("training.precision=bf16", "kernels.attention=blocks"),
        line="kernels.attention = blocks does not go with training.precision.kind = bf16; blocks take fp32; use auto",
    ),
    Case(
        rule=kernel_rules.experts_kernel_is_used,
        overrides=("training.precision=fp8", "kernels.experts=reference"),
        line="kernels.experts = reference does not go with training.precision.kind = fp8, which has its own; use auto",
    ),
    Case(
        rule=kernel_rules.experts_kernel_is_used,
        overrides=("model.feed_forward.moe_intermediate_size=18", "kernels.experts=grouped_mm"),
        line="kernels.experts = grouped_mm does not go with model.feed_forward.moe_intermediate_size = 18 of a rank; "
        "grouped_mm takes rows of multiples of 4 numbers; use auto",
    ),
    Case(
        rule=kernel_rules.experts_kernel_is_used,
        overrides=("training.precision=fp16", "kernels.experts=grouped_mm"),
        line="kernels.experts = grouped_mm does not go with training.precision.kind = fp16; grouped_mm takes fp32 and "
        "bf16; use auto",
    ),
    Case(
        rule=kernel_rules.loss_kernel_is_used,
        overrides=("model.z_loss=0.001", "kernels.loss=linear_cross_entropy"),
        line="kernels.loss = linear_cross_entropy does not go with model.z_loss = 0.001, which needs the logits; "
        "use auto",
    ),
    Case(
        rule=kernel_rules.loss_kernel_is_used,
        overrides=("parallelism.tensor_parallel=2", "kernels.loss=reference"),
        line="kernels.loss = reference does not go with parallelism.tensor_parallel = 2, which has its own; use auto",
        world_size=2,
    ),
    Case(
        rule=precision_rules.loss_scale_can_back_off,
        overrides=("resilience.on_not_finite=stop", "training.precision=fp16"),
        line="resilience.on_not_finite = stop does not go with training.precision.kind = fp16, whose loss scale is "
        "lowered at steps that are not finite; use skip",
        place_of=0,
    ),
    Case(
        rule=precision_rules.gradients_are_summed_in_full,
        overrides=(
            "parallelism.pipeline_parallel=2",
            "parallelism.pipeline={schedule: zbv_zero_bubble}",
            "training.precision={kind: fp8, parameters: bf16}",
        ),
        line="training.precision.parameters = bf16 does not go with parallelism.pipeline.schedule = zbv_zero_bubble, "
        "which would add gradients of micro-batches in that type; use parameters fp32, or another schedule",
        world_size=2,
    ),
    Case(
        rule=precision_rules.tiles_are_whole,
        overrides=("training.precision=fp8", "parallelism.tensor_parallel=2"),
        line="parallelism.tensor_parallel = 2 cuts model.feed_forward.intermediate_size = 64 across the tiles of "
        "training.precision.kind = fp8, which are 128 wide; use a degree that leaves each rank a multiple of 128, or "
        "precision bf16",
        world_size=2,
    ),
    Case(
        rule=precision_rules.tiles_are_whole,
        overrides=("training.precision=fp8", "parallelism.expert_tensor_parallel=2"),
        line="parallelism.expert_tensor_parallel = 2 cuts model.feed_forward.moe_intermediate_size = 16 across the "
        "tiles of training.precision.kind = fp8, which are 128 wide; use a degree that leaves each rank a multiple of "
        "128, or precision bf16",
        world_size=2,
    ),
    Case(
        rule=rules.evaluation_has_data,
        overrides=(SECOND_SET,),
        line="data.evaluate has two sets of the name one; rename one",
    ),
    Case(
        rule=rules.replay_is_deterministic,
        overrides=("resilience.replay_every_steps=5",),
        line="resilience.replay_every_steps = 5 compares bit by bit, and operations need not be equal to the bit; "
        "use 0, or training.deterministic = true",
    ),
)


def broken(folder: Path, overrides: Sequence[str], world_size: int) -> list[str]:
    """The lines of broken rules, after checking that the head counts them."""
    with pytest.raises(InputError) as caught:
        load(written(folder, TINY_YAML), overrides).require_rules(world_size=world_size)
    head, *lines = str(caught.value).splitlines()
    assert head == f"the configuration breaks {len(lines)} rule{'s' if len(lines) > 1 else ''}:"
    return [line.removeprefix("  ") for line in lines]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule.__name__}-{case.line[:40]}")
def test_a_broken_rule_says_what_would_do_and_where(tmp_path: Path, case: Case) -> None:
    assert f"{case.line} ({case.place})" in broken(tmp_path, case.overrides, case.world_size)
    config = loaded(tmp_path, TINY_YAML, case.overrides).config
    assert case.line in [found.message for found in case.rule(config, case.world_size)]


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == set(RULES)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_good_configuration_breaks_none(tmp_path: Path, world_size: int) -> None:
    loaded(tmp_path).require_rules(world_size=world_size)


@pytest.mark.parametrize(
    ("override", "world_size"),
    [
        ("data.train.sequence_length=32", 1),
        ("data.train.sources=[{path: a}, {path: b, weight: 0.5}]", 1),
        ("lr_scheduler={type: warmup_stable_decay, warmup_steps: 2, decay_steps: 2}", 1),
        ("parallelism.data_parallel_shard=2", 2),
        ("parallelism.data_parallel_replicate=2", 2),
        ("training.evaluate_every_steps=1", 1),
        ("training.global_batch_size={samples: 4, ramp: {start: 1, over: 2}}", 2),
        ("training.global_batch_size={tokens: 128}", 2),
        ("training.global_batch_size=12", 3),
        ("parallelism.tensor_parallel=2", 4),
        ("parallelism.expert_parallel=2", 2),
        ("parallelism.expert_tensor_parallel=2", 2),
    ],
)
def test_what_just_fits_is_taken(tmp_path: Path, override: str, world_size: int) -> None:
    loaded(tmp_path, overrides=[override]).require_rules(world_size=world_size)


def test_all_broken_rules_are_in_one_message_in_order(tmp_path: Path) -> None:
    overrides = ["training.global_batch_size=3", "data.train.sequence_length=64", "parallelism.data_parallel_shard=2"]
    keys = [line.split(" = ")[0] for line in broken(tmp_path, overrides, 1)]
    assert keys == ["data.train.sequence_length", "parallelism.data_parallel_shard", "training.global_batch_size"]


def test_many_divisors_are_shortened(tmp_path: Path) -> None:
    overrides = ["model.feed_forward.n_routed_experts=256", "parallelism.expert_parallel=48"]
    assert "use 1, 2, 4, 8, 16, 32 ... 256 (" in broken(tmp_path, overrides, 1)[0]
