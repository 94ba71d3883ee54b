"""Every parameter of a model by name and shape, the stages that have it, and the block of it that a rank holds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from firstlight.config.model import (
    GroupedQueryAttention,
    ModelConfig,
    MoeFeedForward,
    MultiHeadLatentAttention,
)
from firstlight.config.router import TopKSoftmaxRouter
from firstlight.layout.mesh import EXPERT_AXES, Layout
from firstlight.layout.stages import Stage, whole_model

Shape = tuple[int, ...]
Cut = Literal["copied", "added", "rows", "columns", "expert_rows", "expert_columns"]
"""What a tensor or expert group does with a parameter.

| cut | a rank holds |
| --- | --- |
| `copied` | all of it, and the gradient of its part of the sequence |
| `added` | all of it (the bias of a product that is summed over the ranks), and the whole gradient |
| `rows` | its share of the first dimension |
| `columns` | its share of the second dimension |
| `expert_rows` | its share of the experts, which are the first dimension, and of these its share of the second one |
| `expert_columns` | its share of the experts, and of these its share of the third dimension |
"""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """`layer` is that of the decoder, with those of multi-token prediction after the last; None: outside of layers."""

    name: str
    shape: Shape
    cut: Cut
    layer: int | None

    @property
    def is_of_experts(self) -> bool:
        """Whether it lies on the mesh of the routed experts."""
        return self.cut in ("expert_rows", "expert_columns")


@dataclass(frozen=True, kw_only=True)
class Block:
    """What tensor and expert groups leave of a parameter for a rank, whose `rows` FSDP shards over `shards` ranks.

    Rows are counted along the dimension that is sharded; `row_size` elements are left over for each.
    """

    parameter: Parameter
    rows: int
    row_size: int
    shards: int

    @property
    def padded_rows(self) -> int:
        """Of each shard, as FSDP gathers them: all shards are as large as the largest."""
        return -(-self.rows // self.shards)

    def rows_of(self, shard: int) -> int:
        """The rows that shard number `shard` really has; the last ones may have fewer, or none."""
        return max(0, min(self.padded_rows, self.rows - shard * self.padded_rows))


def parameters_of(model: ModelConfig) -> list[Parameter]:
    """All of them; a tied head is the embedding."""
    found = _outside(model)
    for layer in range(model.num_hidden_layers + model.num_mtp_layers):
        found += parameters_of_layer(model, layer)
    return found


def _outside(model: ModelConfig) -> list[Parameter]:
    """Those of no layer."""
    hidden, words = model.hidden_size, model.vocab_size
    outside = [_Tensor("embedding.weight", (words, hidden), "rows"), _Tensor("output_norm.weight", (hidden,))]
    if not model.tie_word_embeddings:
        outside.append(_Tensor("head.weight", (words, hidden), "rows"))
    return [_at(tensor, "", None) for tensor in outside]


def parameters_of_layer(model: ModelConfig, layer: int) -> list[Parameter]:
    """Those of decoder layer `layer`, or of a layer of multi-token prediction, which are numbered after the last."""
    depth = layer - model.num_hidden_layers
    if depth >= 0:
        return [_at(tensor, f"mtp.{depth}.", layer) for tensor in _mtp_layer(model, layer)]
    return [_at(tensor, f"layers.{layer}.", layer) for tensor in _layer(model, layer)]


def parameters_of_stage(model: ModelConfig, stage: Stage) -> list[Parameter]:
    """Those that `stage` has, a copy of the embedding among them: see `is_copy`."""
    looks_up = stage.is_first or (stage.is_last and has_embedding_copy(model))
    outside = [one for one in _outside(model) if (looks_up if one.name == "embedding.weight" else stage.is_last)]
    ahead = range(model.num_hidden_layers, model.num_hidden_layers + model.num_mtp_layers) if stage.is_last else ()
    return outside + [one for layer in (*stage.layers, *ahead) for one in parameters_of_layer(model, layer)]


def has_embedding_copy(model: ModelConfig) -> bool:
    """Whether the last stage of a pipeline needs the embedding, of which the first one is the owner."""
    return model.tie_word_embeddings or model.num_mtp_layers > 0


def is_copy(stage: Stage, parameter: Parameter) -> bool:
    """Whether another stage owns what `stage` has of `parameter`: it has no place in the optimizer then."""
    return parameter.name == "embedding.weight" and not stage.is_first


def block_of(parameter: Parameter, layout: Layout) -> Block:
    """Of any rank: tensor and expert groups cut evenly."""
    shape, shards = list(parameter.shape), layout.dp_shard * layout.cp
    match parameter.cut:
        case "rows":
            shape[0] //= layout.tp
        case "columns":
            shape[1] //= layout.tp
        case "expert_rows" | "expert_columns":
            shape[0] //= layout.ep
            shape[1 if parameter.cut == "expert_rows" else 2] //= layout.etp
            shards = layout.expert_shape[EXPERT_AXES.index("edp")]
        case "copied" | "added":
            pass
    rows = shape[sharded_dim(shape, shards)]
    return Block(parameter=parameter, rows=rows, row_size=prod(shape) // rows, shards=shards)


def sharded_dim(shape: Sequence[int], shards: int) -> int:
    """Which dimension of a rank's block FSDP shards: the first.

    The second one of a stack of experts that are too few to be dealt out evenly: whole experts would leave some ranks
    without any, and every gather would carry the room for them.
    """
    is_stack = len(shape) == 3
    return 1 if is_stack and shape[0] % shards and shape[1] % shards == 0 else 0


@dataclass(frozen=True, kw_only=True)
class RankElements:
    """How many elements of parameters a rank holds: its own, and of copies of what another stage owns."""

    own: int
    copied: int


def elements_of_rank(model: ModelConfig, layout: Layout, rank: int, stages: Sequence[Stage] = ()) -> RankElements:
    """Those of `rank`, whose `stages` of the pipeline are these; none: the whole model."""
    own = sum(size for _, size in own_elements(model, layout, rank, stages))
    here, place = stages or [whole_model(model)], layout.coordinates(rank)
    copied = sum(
        _elements(parameter, layout, place)
        for stage in here
        for parameter in parameters_of_stage(model, stage)
        if is_copy(stage, parameter)
    )
    return RankElements(own=own, copied=copied)


def own_elements(
    model: ModelConfig, layout: Layout, rank: int, stages: Sequence[Stage] = ()
) -> Iterator[tuple[Parameter, int]]:
    """The parameters that the optimizer of `rank` has, and how many elements of each."""
    place = layout.coordinates(rank)
    for stage in stages or [whole_model(model)]:
        for parameter in parameters_of_stage(model, stage):
            if not is_copy(stage, parameter):
                yield parameter, _elements(parameter, layout, place)


def _elements(parameter: Parameter, layout: Layout, place: Mapping[str, int]) -> int:
    block = block_of(parameter, layout)
    return block.rows_of(place["edp" if parameter.is_of_experts else "shard"]) * block.row_size


@dataclass(frozen=True)
class _Tensor:
    """A parameter within its layer."""

    name: str
    shape: Shape
    cut: Cut = "copied"


def _at(tensor: _Tensor, prefix: str, layer: int | None) -> Parameter:
    return Parameter(name=prefix + tensor.name, shape=tensor.shape, cut=tensor.cut, layer=layer)


def _mtp_layer(model: ModelConfig, layer: int) -> Iterator[_Tensor]:
    hidden = model.hidden_size
    for norm in ("embedding_norm", "hidden_norm", "output_norm"):
        yield _Tensor(f"{norm}.weight", (hidden,))
    yield _Tensor("projection.weight", (hidden, 2 * hidden))
    for tensor in _layer(model, layer):
        yield _Tensor(f"block.{tensor.name}", tensor.shape, tensor.cut)


def _layer(model: ModelConfig, layer: int) -> Iterator[_Tensor]:
    norms = ["attention_norm", "feed_forward_norm"]
    if model.norms == "sandwich":
        norms += ["attention_output_norm", "feed_forward_output_norm"]
    for norm in norms:
        yield _Tensor(f"{norm}.weight", (model.hidden_size,))
    match model.attention:
        case GroupedQueryAttention() as attention:
            yield from _grouped_query(model.hidden_size, attention)
        case MultiHeadLatentAttention() as attention:
            yield from _latent(model.hidden_size, attention)
    feed_forward = model.feed_forward
    if isinstance(feed_forward, MoeFeedForward) and model.is_moe_layer(layer):
        yield from _mixture(model.hidden_size, feed_forward)
    else:
        yield from _feed_forward("feed_forward", model.hidden_size, feed_forward.intermediate_size or 0)


def _grouped_query(hidden: int, attention: GroupedQueryAttention) -> Iterator[_Tensor]:
    query, key = (
        attention.head_dim * heads for heads in (attention.num_attention_heads, attention.num_key_value_heads)
    )
    for name, size in (("q_proj", query), ("k_proj", key), ("v_proj", key)):
        yield _Tensor(f"attention.{name}.weight", (size, hidden), "rows")
        if attention.bias != "none":
            yield _Tensor(f"attention.{name}.bias", (size,), "rows")
    yield _Tensor("attention.o_proj.weight", (hidden, query), "columns")
    if attention.bias == "all":
        yield _Tensor("attention.o_proj.bias", (hidden,), "added")
    if attention.qk_norm == "per_head":
        yield _Tensor("attention.q_norm.weight", (attention.head_dim,))
        yield _Tensor("attention.k_norm.weight", (attention.head_dim,))
    if attention.has_sinks:
        yield _Tensor("attention.sinks", (attention.num_attention_heads,), "rows")


def _latent(hidden: int, attention: MultiHeadLatentAttention) -> Iterator[_Tensor]:
    heads, rank = attention.num_attention_heads, attention.q_lora_rank
    query = heads * attention.qk_head_dim
    if rank is None:
        yield _Tensor("attention.q_proj.weight", (query, hidden), "rows")
    else:
        yield _Tensor("attention.q_a_proj.weight", (rank, hidden))
        yield _Tensor("attention.q_a_norm.weight", (rank,))
        yield _Tensor("attention.q_b_proj.weight", (query, rank), "rows")
    latent = attention.kv_lora_rank
    yield _Tensor("attention.kv_a_proj.weight", (latent + attention.qk_rope_head_dim, hidden))
    yield _Tensor("attention.kv_a_norm.weight", (latent,))
    up = heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    yield _Tensor("attention.kv_b_proj.weight", (up, latent), "rows")
    yield _Tensor("attention.o_proj.weight", (hidden, heads * attention.v_head_dim), "columns")


def _feed_forward(name: str, hidden: int, width: int) -> Iterator[_Tensor]:
    yield _Tensor(f"{name}.gate_proj.weight", (width, hidden), "rows")
    yield _Tensor(f"{name}.up_proj.weight", (width, hidden), "rows")
    yield _Tensor(f"{name}.down_proj.weight", (hidden, width), "columns")


def _mixture(hidden: int, mixture: MoeFeedForward) -> Iterator[_Tensor]:
    experts, width = mixture.n_routed_experts, mixture.moe_intermediate_size
    yield _Tensor("feed_forward.router.weight", (experts, hidden))
    if isinstance(mixture.router, TopKSoftmaxRouter) and mixture.router.has_logit_bias:
        yield _Tensor("feed_forward.router.logit_bias", (experts,))
    shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    for name, (out, inner) in shapes.items():
        cut: Cut = "expert_columns" if name == "down" else "expert_rows"
        yield _Tensor(f"feed_forward.experts.{name}_proj", (experts, out, inner), cut)
        if mixture.has_expert_bias:
            yield _Tensor(f"feed_forward.experts.{name}_bias", (experts, out), "expert_rows")
    if mixture.n_shared_experts:
        yield from _feed_forward("feed_forward.shared_expert", hidden, width * mixture.n_shared_experts)
