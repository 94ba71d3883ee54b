"""Facts across sections: one small function per rule, all broken ones reported together."""

import math
from collections.abc import Callable, Iterator

from firstlight.config.batch import SampleBatch, batch_of
from firstlight.config.broken import Broken
from firstlight.config.context_rules import CONTEXT_RULES
from firstlight.config.families import FAMILY_CHOICES, MTP, refused_choices, shown
from firstlight.config.kernel_rules import KERNEL_RULES
from firstlight.config.model import GroupedQueryAttention, ModelConfig, MoeFeedForward, MultiHeadLatentAttention
from firstlight.config.phase_rules import PHASE_RULES, final_batches, key_path
from firstlight.config.pipeline_rules import PIPELINE_RULES
from firstlight.config.precision_rules import PRECISION_RULES
from firstlight.config.recipe_rules import RECIPE_RULES
from firstlight.config.recompute import ModuleRecompute, NoRecompute, SelectiveRecompute
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import sequence_lengths
from firstlight.config.training import ParallelismConfig

_FIXED_AXES = ("tensor_parallel", "context_parallel", "pipeline_parallel", "data_parallel_replicate")
"""All but data_parallel_shard, which can take what these leave."""

Rule = Callable[[RunConfig, int], Iterator[Broken]]


def broken_rules(config: RunConfig, world_size: int) -> list[Broken]:
    """All rules that `config` breaks when it runs on `world_size` ranks, in the order of RULES."""
    return [broken for rule in RULES for broken in rule(config, world_size)]


def family_has_the_choices(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """A family is made of certain kinds of layers."""
    for choice in refused_choices(config.model):
        if choice.path == MTP:
            continue
        yield Broken(
            path=("model", *choice.path.removesuffix(".kind").split(".")),
            message=f"model.{choice.path} = {shown(choice.value)} is not a part of model.family = "
            f"{config.model.family}; use {' or '.join(shown(value) for value in choice.allowed)}",
        )


def mtp_needs_a_family_with_it(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Only some families have multi-token prediction."""
    if any(choice.path == MTP for choice in refused_choices(config.model)):
        having = [family for family, choices in FAMILY_CHOICES.items() if len(choices[MTP]) > 1]
        yield Broken(
            path=("model", MTP),
            message=f"model.{MTP} is not a part of model.family = {config.model.family}; use null, or family "
            f"{' or '.join(having)}",
        )


def positions_cover_the_sequence(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """The model must know every position of a sequence."""
    positions = config.model.max_position_embeddings
    for key, length in sequence_lengths(config).items():
        if length > positions:
            yield Broken(
                path=key_path(key),
                message=f"{key} = {length} is more than model.max_position_embeddings = {positions}; "
                f"use at most {positions}, or a model with more positions",
            )


def experts_divide(config: RunConfig, world_size: int) -> Iterator[Broken]:
    """Every rank of the expert axis holds the same number of experts, and the axis is cut out of those that shard."""
    parallelism, feed_forward = config.parallelism, config.model.feed_forward
    degree = parallelism.expert_parallel
    if degree == 1:
        return
    path = ("parallelism", "expert_parallel")
    if not isinstance(feed_forward, MoeFeedForward):
        yield Broken(path=path, message=f"parallelism.expert_parallel = {degree}, but the model has no experts; use 1")
        return
    experts = feed_forward.n_routed_experts
    if experts % degree:
        yield Broken(
            path=path,
            message=f"parallelism.expert_parallel = {degree} does not divide model.feed_forward.n_routed_experts = "
            f"{experts}; use {_divisors(experts)}",
        )
    ranks = _ranks_of_experts(config, world_size)
    if parallelism.expert_tensor_parallel == 1 and ranks % degree:
        yield Broken(
            path=path,
            message=f"parallelism.expert_parallel = {degree} does not divide the {ranks} ranks of "
            f"data_parallel_shard x context_parallel x tensor_parallel; use {_divisors(math.gcd(ranks, experts))}",
        )


def widths_of_experts_divide(config: RunConfig, world_size: int) -> Iterator[Broken]:
    """Every rank of a group that shares experts has the same share of their widths, and the group is cut out of the
    ranks that shard, too."""
    parallelism, feed_forward = config.parallelism, config.model.feed_forward
    degree = parallelism.expert_tensor_parallel
    if degree == 1:
        return
    path = ("parallelism", "expert_tensor_parallel")
    shown = f"parallelism.expert_tensor_parallel = {degree}"
    if not isinstance(feed_forward, MoeFeedForward):
        yield Broken(path=path, message=f"{shown}, but the model has no experts; use 1")
        return
    widths = {"model.feed_forward.moe_intermediate_size": feed_forward.moe_intermediate_size}
    if feed_forward.has_expert_bias:
        widths["model.hidden_size, the width of the experts' last bias,"] = config.model.hidden_size
    usable = math.gcd(*widths.values())
    for name, width in widths.items():
        if width % degree:
            message = f"{shown} does not divide {name} = {width}; use {_divisors(usable)}"
            yield Broken(path=path, message=message)
    ranks, experts = _ranks_of_experts(config, world_size), parallelism.expert_parallel
    if ranks % (experts * degree):
        left = ranks // experts if ranks % experts == 0 else ranks
        yield Broken(
            path=path,
            message=f"{shown} x expert_parallel = {experts} does not divide the {ranks} ranks of data_parallel_shard x "
            f"context_parallel x tensor_parallel; use {_divisors(math.gcd(left, usable))}"
            + ("" if ranks % experts == 0 else " with an expert_parallel that divides the rest"),
        )


def tensors_divide(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Every rank of a tensor group has the same number of heads, features, words and positions."""
    degree = config.parallelism.tensor_parallel
    if degree == 1:
        return
    sizes = {**_cut_sizes(config.model), **sequence_lengths(config)}
    usable = math.gcd(*sizes.values())
    for name, size in sizes.items():
        if size % degree:
            yield Broken(
                path=("parallelism", "tensor_parallel"),
                message=f"parallelism.tensor_parallel = {degree} does not divide {name} = {size}; "
                f"use {_divisors(usable)}",
            )


def capacity_is_measured_whole(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """An expert's capacity is a share of a micro-batch, of which a rank that has a part of each sequence routes a
    part."""
    feed_forward = config.model.feed_forward
    if not isinstance(feed_forward, MoeFeedForward) or feed_forward.router.capacity_factor is None:
        return
    for axis in ("tensor_parallel", "context_parallel"):
        degree = getattr(config.parallelism, axis)
        if degree > 1:
            yield Broken(
                path=("model", "feed_forward", "router", "capacity_factor"),
                message=f"model.feed_forward.router.capacity_factor = {feed_forward.router.capacity_factor} does not "
                f"go with parallelism.{axis} = {degree}; use null, or {axis} 1",
            )


def recompute_names_what_there_is(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Ranges begin at a layer, and named modules stand in some layer."""
    model, recompute = config.model, config.recompute
    last = model.num_hidden_layers + model.num_mtp_layers - 1
    ranges = {
        "recompute.layers": None if isinstance(recompute, NoRecompute) else recompute.layers,
        "offload.activations": config.offload.activations,
    }
    for key, layers in ranges.items():
        if layers is not None and layers.first > last:
            yield Broken(
                path=(*key.split("."), "first"),
                message=f"{key}.first = {layers.first} comes after the last layer; use at most {last}",
            )
    names = {
        "modules": recompute.modules if isinstance(recompute, ModuleRecompute) else (),
        "repeated_in": recompute.repeated_in if isinstance(recompute, SelectiveRecompute) else (),
    }
    missing = _modules_not_in(model)
    for key, named in names.items():
        for name in named:
            if name in missing:
                yield Broken(
                    path=("recompute", key),
                    message=f"recompute.{key} names {name}, and the model has none; leave it out",
                )


def axes_fill_the_world(config: RunConfig, world_size: int) -> Iterator[Broken]:
    """The product of the degrees is the number of processes."""
    parallelism = config.parallelism
    shard = parallelism.data_parallel_shard
    if shard == -1:
        yield from _degrees_that_do_not_divide(parallelism, world_size)
        return
    needed = shard * parallelism.fixed_size
    if needed != world_size:
        factors = [f"data_parallel_shard = {shard}"] + [
            f"{axis} = {degree}" for axis in _FIXED_AXES if (degree := getattr(parallelism, axis)) > 1
        ]
        yield Broken(
            path=("parallelism", "data_parallel_shard"),
            message=f"parallelism.{' x '.join(factors)} {'need' if len(factors) > 1 else 'needs'} {needed} processes, "
            f"and there are {world_size}; start that many (--nproc-per-node), or use -1",
        )


def _degrees_that_do_not_divide(parallelism: ParallelismConfig, world_size: int) -> Iterator[Broken]:
    """The first degree that the processes, divided by those before it, are no multiple of."""
    ranks, within = world_size, ""
    for axis in _FIXED_AXES:
        degree = getattr(parallelism, axis)
        if ranks % degree:
            yield Broken(
                path=("parallelism", axis),
                message=f"parallelism.{axis} = {degree} does not divide the {world_size} processes{within}; "
                f"use {_divisors(ranks)}",
            )
            return
        ranks //= degree
        within += f" / {axis} = {degree}" if degree > 1 else ""


def batch_divides(config: RunConfig, world_size: int) -> Iterator[Broken]:
    """Every rank takes the same whole number of micro-batches, once the batch has its full size."""
    micro_batch, parallelism = config.training.micro_batch_size, config.parallelism
    data_size = max(1, world_size * parallelism.data_parallel_replicate // parallelism.fixed_size)
    portion = micro_batch * data_size
    batch = batch_of(config.training.global_batch_size)
    uneven = [one for one in final_batches(config) if one % portion]
    if uneven:
        nearest = max(portion, round(uneven[0] / portion) * portion)
        what = str(uneven[0])
        if not isinstance(batch, SampleBatch):
            what = f"{batch.tokens} tokens, which is {what} sequences,"
        yield Broken(
            path=("training", "global_batch_size"),
            message=f"training.global_batch_size = {what} is not a multiple of micro_batch_size = {micro_batch} x "
            f"{data_size} data-parallel ranks = {portion}; use {nearest}, or another micro_batch_size",
        )


def evaluation_has_data(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """An evaluation that was asked for needs something to evaluate on, and names are labels of metrics."""
    if config.training.evaluate_every_steps and not config.data.evaluate:
        yield Broken(
            path=("training", "evaluate_every_steps"),
            message=f"training.evaluate_every_steps = {config.training.evaluate_every_steps}, but data.evaluate is "
            "empty; add a held-out set, or use 0",
        )
    names = [held_out.name for held_out in config.data.evaluate]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Broken(path=("data", "evaluate"), message=f"data.evaluate has two sets of the name {name}; rename one")


def replay_is_deterministic(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Operations that may differ between two equal runs would be taken for faults of the machine."""
    if config.resilience.replay_every_steps and not config.training.deterministic:
        yield Broken(
            path=("resilience", "replay_every_steps"),
            message=f"resilience.replay_every_steps = {config.resilience.replay_every_steps} compares bit by bit, and "
            "operations need not be equal to the bit; use 0, or training.deterministic = true",
        )


RULES: tuple[Rule, ...] = (
    family_has_the_choices,
    mtp_needs_a_family_with_it,
    positions_cover_the_sequence,
    *RECIPE_RULES,
    experts_divide,
    widths_of_experts_divide,
    tensors_divide,
    capacity_is_measured_whole,
    recompute_names_what_there_is,
    axes_fill_the_world,
    batch_divides,
    *PHASE_RULES,
    *PIPELINE_RULES,
    *CONTEXT_RULES,
    *PRECISION_RULES,
    *KERNEL_RULES,
    evaluation_has_data,
    replay_is_deterministic,
)


def _modules_not_in(model: ModelConfig) -> set[str]:
    """Which of the modules that `recompute` can name the model is built without."""
    feed_forward = model.feed_forward
    missing = set() if isinstance(model.attention, MultiHeadLatentAttention) else {"latent_up_projection"}
    if not isinstance(feed_forward, MoeFeedForward):
        return missing | {"experts", "shared_expert"}
    return missing if feed_forward.n_shared_experts else missing | {"shared_expert"}


def _cut_sizes(model: ModelConfig) -> dict[str, int]:
    """The sizes that tensor parallelism cuts, by their names."""
    attention, feed_forward = model.attention, model.feed_forward
    sizes = {
        "model.vocab_size": model.vocab_size,
        "model.attention.num_attention_heads": attention.num_attention_heads,
    }
    if isinstance(attention, GroupedQueryAttention):
        sizes["model.attention.num_key_value_heads"] = attention.num_key_value_heads
    if feed_forward.intermediate_size is not None:
        sizes["model.feed_forward.intermediate_size"] = feed_forward.intermediate_size
    if isinstance(feed_forward, MoeFeedForward) and feed_forward.n_shared_experts:
        width = feed_forward.moe_intermediate_size * feed_forward.n_shared_experts
        sizes["model.feed_forward.moe_intermediate_size x n_shared_experts"] = width
    return sizes


def _ranks_of_experts(config: RunConfig, world_size: int) -> int:
    """The ranks of one stage and replica, out of which groups of experts are cut."""
    return world_size // (config.parallelism.data_parallel_replicate * config.parallelism.pipeline_parallel)


def _divisors(number: int) -> str:
    divisors = [candidate for candidate in range(1, number + 1) if number % candidate == 0]
    if len(divisors) > 8:
        divisors_shown = [str(divisor) for divisor in divisors[:6]]
        return f"{', '.join(divisors_shown)} ... {divisors[-1]}"
    return ", ".join(str(divisor) for divisor in divisors)
