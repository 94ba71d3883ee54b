"""The collectives of one optimizer step: how many, on which axis, and how many bytes. Tests count the real ones.

A call's bytes are the larger of what a rank gives to it and takes from it. Calls over one rank are left out. It is the
arithmetic of a run without recomputation and autocast; routed rows are taken to be spread evenly over the experts.

Names: T positions of a micro-batch (all of a tensor group's), d model width.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from firstlight.config.model import ModelConfig, MoeFeedForward, MultiHeadLatentAttention
from firstlight.layout.buckets import buckets
from firstlight.layout.mesh import Layout
from firstlight.layout.parameters import Block, block_of, parameters_of

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]
_INT64 = 8
_FLOAT64 = 8


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """What a rank does in one step, and the bytes of its numbers."""

    sequence_length: int
    micro_batch_size: int
    micro_batches: int
    number_bytes: int = 4
    """Of parameters and activations."""
    sum_bytes: int = 4
    """Of gradients while they are summed; 8 on CPU."""

    @property
    def positions(self) -> int:
        """Of a micro-batch."""
        return self.micro_batch_size * self.sequence_length


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """`calls` collectives of one kind on one axis that serve one purpose, and their `bytes` together."""

    what: str
    kind: Kind
    axis: str
    calls: int
    bytes: int


def step_traffic(model: ModelConfig, layout: Layout, step: StepShape) -> list[Traffic]:
    """All collectives of one step of a rank that holds the first shard of everything, joined by purpose."""
    degrees = {"world": layout.world_size, **layout.degrees()}
    calls = [
        *_parameter_calls(model, layout, step),
        *_copied_gradient_calls(model, layout, step),
        *_tensor_calls(model, step),
        *_expert_calls(model, layout, step),
        *_step_calls(model),
    ]
    return _joined(call for call in calls if degrees[call.axis] > 1)


def _joined(calls: Iterable[Traffic]) -> list[Traffic]:
    counts: Counter[tuple[str, Kind, str]] = Counter()
    sizes: Counter[tuple[str, Kind, str]] = Counter()
    for call in calls:
        key = call.what, call.kind, call.axis
        counts[key] += call.calls
        sizes[key] += call.bytes
    return [
        Traffic(what=what, kind=kind, axis=axis, calls=counts[what, kind, axis], bytes=sizes[what, kind, axis])
        for what, kind, axis in counts
    ]


def _parameter_calls(model: ModelConfig, layout: Layout, step: StepShape) -> Iterator[Traffic]:
    """FSDP: each unit is gathered before its forward and before its backward pass, the root once for both; but once a
    step unless parameters are sharded. Gradients are scattered after each micro-batch, if they are sharded in between,
    or after the last one; then they are summed over replicas.
    """
    for (layer, are_experts), blocks in sharding_units(model, layout).items():
        axis = "edp" if are_experts else "shard"
        what = "experts" if are_experts else "parameters"
        gathers = (1 if layer is None else 2) * step.micro_batches if layout.sharded == "all" else 1
        scatters = 1 if layout.sharded == "optimizer" else step.micro_batches
        padded = sum(block.padded_rows * block.row_size for block in blocks)
        whole = padded * blocks[0].shards
        yield _calls(f"{what} gathered", "all_gather", axis, gathers, whole * step.number_bytes)
        yield _calls(f"gradients of {what}", "reduce_scatter", axis, scatters, whole * step.sum_bytes)
        yield _calls(f"gradients of {what}", "all_reduce", "dp_replicate", 1, padded * step.sum_bytes)


def sharding_units(model: ModelConfig, layout: Layout) -> dict[tuple[int | None, bool], list[Block]]:
    """What FSDP gathers in one call, by layer (None: the root) and whether it is the experts on their own mesh."""
    are_apart = layout.tp > 1 or layout.ep > 1 or layout.etp > 1
    units: dict[tuple[int | None, bool], list[Block]] = {}
    for parameter in parameters_of(model):
        key = parameter.layer, are_apart and parameter.is_of_experts
        units.setdefault(key, []).append(block_of(parameter, layout))
    return units


def _copied_gradient_calls(model: ModelConfig, layout: Layout, step: StepShape) -> Iterator[Traffic]:
    copied = [block_of(one, layout) for one in parameters_of(model) if one.cut == "copied"]
    sizes = [block.rows_of(0) * block.row_size for block in copied]
    for places in buckets(sizes):
        size = sum(sizes[place] for place in places)
        yield _calls("gradients of copies", "all_reduce", "tp", 1, size * step.sum_bytes)


def _tensor_calls(model: ModelConfig, step: StepShape) -> Iterator[Traffic]:
    """Sequence and vocabulary parallelism. What is gathered forward is scattered backward, and the other way."""
    wide = step.positions * model.hidden_size * step.number_bytes
    losses = 1 + model.num_mtp_layers
    layers = model.num_hidden_layers + model.num_mtp_layers
    scattered = [wide] * losses  # the embedding
    gathered = [wide] * losses  # the head
    for layer in range(layers):
        gathered += [step.positions * width * step.number_bytes for width in _attention_widths(model)]
        scattered.append(wide)
        if not model.is_moe_layer(layer) or _shared_experts(model):
            gathered.append(wide)
            scattered.append(wide)
    for size in (*gathered, *scattered):
        yield _calls("sequence", "all_gather", "tp", step.micro_batches, size)
        yield _calls("sequence", "reduce_scatter", "tp", step.micro_batches, size)
    largest = step.positions * step.number_bytes
    yield _calls("vocabulary", "all_reduce", "tp", losses * step.micro_batches, largest)
    yield _calls("vocabulary", "all_reduce", "tp", losses * step.micro_batches, 2 * largest)
    if isinstance(model.feed_forward, MoeFeedForward):
        experts, times = model.feed_forward.n_routed_experts, _mixtures(model) * step.micro_batches
        shares = 2 * step.micro_batch_size * experts * step.number_bytes
        yield _calls("loads of experts", "all_reduce", "tp", times, shares)
        yield _calls("loads of experts", "all_reduce", "tp", times, experts * _INT64)


def _attention_widths(model: ModelConfig) -> list[int]:
    """Of what attention gathers along the sequence."""
    attention = model.attention
    if not isinstance(attention, MultiHeadLatentAttention):
        return [model.hidden_size]
    query = model.hidden_size if attention.q_lora_rank is None else attention.q_lora_rank
    return [query, attention.kv_lora_rank, attention.qk_rope_head_dim]


def _expert_calls(model: ModelConfig, layout: Layout, step: StepShape) -> Iterator[Traffic]:
    """Counts once; rows to their experts and back, and both again in the backward pass. Ranks that share experts give
    each other all that has come to them."""
    if not isinstance(model.feed_forward, MoeFeedForward):
        return
    times = _mixtures(model) * step.micro_batches
    rows = step.positions // layout.tp * model.feed_forward.router.num_experts_per_tok
    size = rows * model.hidden_size * step.number_bytes
    yield _calls("rows to experts and back", "all_to_all", "ep", 4 * times, size)
    yield _calls("rows to experts and back", "all_to_all", "etp", 4 * times, layout.etp * size)
    counts = model.feed_forward.n_routed_experts * _INT64
    yield _calls("counts of rows", "all_to_all", "ep", times, counts)
    yield _calls("counts of rows", "all_gather", "etp", times, counts // layout.ep * layout.etp)


def _step_calls(model: ModelConfig) -> Iterator[Traffic]:
    """Counts of targets, the report of losses and loads, and the norm of the gradient. All in fp64."""
    depths = model.num_mtp_layers
    loads = _mixtures(model) * model.feed_forward.n_routed_experts if model.feed_forward.kind == "moe" else 0
    for what, numbers in (("counts", 2 + depths), ("losses and loads", 2 + depths + loads), ("norm", 1)):
        yield _calls(f"{what} of the step", "all_reduce", "world", 1, numbers * _FLOAT64)


def _mixtures(model: ModelConfig) -> int:
    return sum(model.is_moe_layer(layer) for layer in range(model.num_hidden_layers + model.num_mtp_layers))


def _shared_experts(model: ModelConfig) -> int:
    return model.feed_forward.n_shared_experts if isinstance(model.feed_forward, MoeFeedForward) else 0


def _calls(what: str, kind: Kind, axis: str, calls: int, size: int) -> Traffic:
    """`calls` calls of `size` bytes each."""
    return Traffic(what=what, kind=kind, axis=axis, calls=calls, bytes=calls * size)
