"""The calls between ranks inside of layers, embedding and head: of tensor, context and expert groups.

Names: b sequences of a micro-batch, t positions of it on a tensor group (all of one context rank's), d model width.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from firstlight.config.model import ModelConfig, MoeFeedForward, MultiHeadLatentAttention
from firstlight.config.recompute import FullRecompute, NoRecompute
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import Stage
from firstlight.layout.traffic import Kind, StepShape, Traffic, calls_of

_INT64 = 8
_FLOAT32 = 4


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """Sizes of one micro-batch on a rank."""

    model: ModelConfig
    layout: Layout
    sequences: int
    length: int
    """Positions of a sequence that a context rank has."""
    number_bytes: int

    @property
    def positions(self) -> int:
        """t"""
        return self.sequences * self.length

    def bytes_of(self, width: int) -> int:
        """Of t vectors."""
        return self.positions * width * self.number_bytes


def layers_traffic(
    model: ModelConfig, layout: Layout, step: StepShape, stage: Stage, recompute: NoRecompute | FullRecompute
) -> Iterator[Traffic]:
    """Of the layers of `stage`, its embedding and its head, for all micro-batches of a step."""
    calls = list(calls_of_ends(model, layout, step, stage))
    for layer in layers_of(model, stage):
        forward, backward = calls_of_layer(model, layout, step, layer, recompute)
        calls += [*forward, *backward]
    for one in calls:
        yield calls_of(one.what, one.kind, one.axis, step.micro_batches * one.calls, one.bytes // one.calls)


def layers_of(model: ModelConfig, stage: Stage) -> list[int]:
    """The layers of `stage`, on the last one those of multi-token prediction, too."""
    ahead = range(model.num_hidden_layers, model.num_hidden_layers + model.num_mtp_layers)
    return [*stage.layers, *(ahead if stage.is_last else ())]


def calls_of_layer(
    model: ModelConfig, layout: Layout, step: StepShape, layer: int, recompute: NoRecompute | FullRecompute
) -> tuple[list[Traffic], list[Traffic]]:
    """Of a layer for one micro-batch: in the forward pass, and in the backward pass with what it computes again."""
    shape = _shape(model, layout, step)
    forward = [*_attention_forward(shape), *_feed_forward(shape, layer)]
    backward = list(_backward(shape, forward))
    if isinstance(recompute, FullRecompute) and recompute.layers.contains(layer):
        backward += _again(shape, layer, forward, recompute)
    return forward, backward


def calls_of_ends(model: ModelConfig, layout: Layout, step: StepShape, stage: Stage) -> Iterator[Traffic]:
    """Of embedding and head for one micro-batch, both passes together."""
    yield from _ends(_shape(model, layout, step), stage)


def _shape(model: ModelConfig, layout: Layout, step: StepShape) -> _Shape:
    return _Shape(
        model=model,
        layout=layout,
        sequences=step.micro_batch_size,
        length=step.sequence_length // layout.cp,
        number_bytes=step.number_bytes,
    )


def mixtures_of(model: ModelConfig, layers: Iterable[int]) -> int:
    """How many of the layers are mixtures of experts."""
    return sum(model.is_moe_layer(layer) for layer in layers)


def _ends(shape: _Shape, stage: Stage) -> Iterator[Traffic]:
    """The embedding scatters its sums forward, each head gathers the stream; the other way backward."""
    model, wide = shape.model, shape.bytes_of(shape.model.hidden_size)
    losses = 1 + model.num_mtp_layers if stage.is_last else 0
    lookups = stage.is_first + (model.num_mtp_layers if stage.is_last else 0)
    for kind in _GATHER_AND_SCATTER:
        if lookups + losses:
            yield calls_of("sequence", kind, "tp", lookups + losses, wide)
    if losses:
        yield calls_of("vocabulary", "all_reduce", "tp", losses, shape.bytes_of(1))
        yield calls_of("vocabulary", "all_reduce", "tp", losses, shape.bytes_of(2))


def _attention_forward(shape: _Shape) -> Iterator[Traffic]:
    for width in _attention_widths(shape.model):
        yield calls_of("sequence", "all_gather", "tp", 1, shape.bytes_of(width))
    heads = _ContextHeads.of(shape)
    yield calls_of("positions for heads", "all_to_all", "heads", 1, shape.bytes_of(heads.exchanged_width))
    turns = shape.layout.cp_ring - 1
    if turns:
        for kind in _SEND_AND_RECEIVE:
            yield calls_of("keys and values", kind, "ring", turns, heads.travelling * shape.number_bytes)
    yield calls_of("heads for positions", "all_to_all", "heads", 1, shape.bytes_of(heads.output_width))
    yield calls_of("sequence", "reduce_scatter", "tp", 1, shape.bytes_of(shape.model.hidden_size))


def _feed_forward(shape: _Shape, layer: int) -> Iterator[Traffic]:
    wide = shape.bytes_of(shape.model.hidden_size)
    feed_forward = shape.model.feed_forward
    is_mixture = isinstance(feed_forward, MoeFeedForward) and shape.model.is_moe_layer(layer)
    if isinstance(feed_forward, MoeFeedForward) and is_mixture:
        yield from _routing(shape, feed_forward)
    if not isinstance(feed_forward, MoeFeedForward) or not is_mixture or feed_forward.n_shared_experts:
        yield calls_of("sequence", "all_gather", "tp", 1, wide)
        yield calls_of("sequence", "reduce_scatter", "tp", 1, wide)


def _routing(shape: _Shape, mixture: MoeFeedForward) -> Iterator[Traffic]:
    """Sums over all who have parts of the same sequences; counts once, rows to their experts and back. Ranks that share
    experts give each other all that has come to them."""
    experts = mixture.n_routed_experts
    for axis in ("ring", "heads", "tp"):
        shares = 2 * shape.sequences * experts * shape.number_bytes
        yield calls_of("loads of experts", "all_reduce", axis, 1, shares)
        yield calls_of("loads of experts", "all_reduce", axis, 1, experts * _INT64)
    rows = shape.positions // shape.layout.tp * mixture.router.num_experts_per_tok
    size = rows * shape.model.hidden_size * shape.number_bytes
    ep, etp = shape.layout.ep, shape.layout.etp
    yield calls_of("counts of rows", "all_to_all", "ep", 1, experts * _INT64)
    yield calls_of("counts of rows", "all_gather", "etp", 1, experts * _INT64 // ep * etp)
    yield calls_of(_ROWS, "all_to_all", "ep", 2, size)
    yield calls_of(_ROWS, "all_to_all", "etp", 2, etp * size)


def _backward(shape: _Shape, forward: Sequence[Traffic]) -> Iterator[Traffic]:
    """What was gathered is scattered and the other way, exchanges go back; counts and sums have no gradient of their
    own. Keys and values go round the ring once more, and their gradients one turn further, home."""
    for one in forward:
        match one.what:
            case "sequence":
                yield calls_of(one.what, _TURNED[one.kind], one.axis, one.calls, one.bytes // one.calls)
            case "positions for heads" | "heads for positions" | "rows to experts and back" | "keys and values":
                yield one
            case _:
                pass
    if shape.layout.cp_ring > 1:
        size = _ContextHeads.of(shape).travelling * max(shape.number_bytes, _FLOAT32)
        for kind in _SEND_AND_RECEIVE:
            yield calls_of("gradients of keys and values", kind, "ring", shape.layout.cp_ring, size)


def _again(shape: _Shape, layer: int, forward: Sequence[Traffic], recompute: FullRecompute) -> Iterator[Traffic]:
    """What recomputation repeats: it ends with the last thing that the backward pass needs, which the sum that a dense
    layer gives is not, unless a norm or the projection of a layer of multi-token prediction follows it."""
    if recompute.communication == "kept":
        yield from (one for one in forward if one.axis == "ring" and one.kind in _SEND_AND_RECEIVE)
        return
    model = shape.model
    ends_with_sum = not model.is_moe_layer(layer) and model.norms != "sandwich" and layer < model.num_hidden_layers
    yield from forward[: -1 if ends_with_sum else None]


_ROWS = "rows to experts and back"
_GATHER_AND_SCATTER: tuple[Kind, ...] = ("all_gather", "reduce_scatter")
_SEND_AND_RECEIVE: tuple[Kind, ...] = ("send", "receive")
_TURNED: dict[Kind, Kind] = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather"}


@dataclass(frozen=True, kw_only=True)
class _ContextHeads:
    """Of attention between the ranks of a context group."""

    exchanged_width: int
    """Of queries, keys and values of all heads of a rank of the tensor group."""
    output_width: int
    travelling: int
    """Elements of the keys and values that a rank of the ring passes on."""

    @classmethod
    def of(cls, shape: _Shape) -> "_ContextHeads":
        """Where there are fewer key/value heads than ranks that deal them out, they are copied."""
        attention, layout = shape.model.attention, shape.layout
        queries = attention.num_attention_heads // layout.tp
        if isinstance(attention, MultiHeadLatentAttention):
            pairs, key, value = queries, attention.qk_head_dim, attention.v_head_dim
        else:
            pairs, key, value = attention.num_key_value_heads // layout.tp, attention.head_dim, attention.head_dim
        pairs = math.lcm(pairs, layout.cp_heads)
        return cls(
            exchanged_width=queries * key + pairs * (key + value),
            output_width=queries * value,
            travelling=shape.positions * pairs * (key + value),
        )


def _attention_widths(model: ModelConfig) -> list[int]:
    """Of what attention gathers along the sequence of a tensor group."""
    attention = model.attention
    if not isinstance(attention, MultiHeadLatentAttention):
        return [model.hidden_size]
    query = model.hidden_size if attention.q_lora_rank is None else attention.q_lora_rank
    return [query, attention.kv_lora_rank, attention.qk_rope_head_dim]
