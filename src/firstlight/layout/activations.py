"""What a layer keeps of a micro-batch for its backward pass, tensor by tensor, in bytes.

It is what autograd saves of the modules in `models/`; a test compares. Experts are taken to have even shares. Names:
T positions of a micro-batch on a tensor group (all of one context rank's), d model width, k experts of a token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from firstlight.base.causal_blocks import MAX_LENGTH, num_scores
from firstlight.config.model import (
    GroupedQueryAttention,
    ModelConfig,
    MoeFeedForward,
    MultiHeadLatentAttention,
    SwigluActivation,
)
from firstlight.config.recompute import (
    FullRecompute,
    ModuleRecompute,
    NoRecompute,
    Recompute,
    SelectiveRecompute,
)
from firstlight.config.router import GroupedRouting, SigmoidRouter, TopKSoftmaxRouter
from firstlight.layout.mesh import Layout
from firstlight.layout.parameters import Parameter, block_of, parameters_of_layer

Part = Literal["stream", "attention", "feed_forward", "experts", "shared_expert", "router", "weights"]
"""Of a layer: the stream with its norms; modules by the names that recomputation has for them; casts of weights."""

_INT32, _INT64 = 4, 8
_FLOAT32 = 4
_HEAD_BLOCK = 512
"""Positions whose logits exist at once, as `ops.cross_entropy` has them."""
_NORMS_OF_PRODUCTS = (
    "q_norm",
    "k_norm",
    "q_a_norm",
    "kv_a_norm",
    "attention_output_norm",
    "feed_forward_output_norm",
)
"""Norms that read what a product gave, and cast their scales to its type."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How a device computes layers: bytes of the stream, and of what matrix products read and give."""

    stream: int = 4
    product: int = 4
    pads_values: bool = False
    """Whether attention wants values as wide as keys (see `ops.attention`)."""
    keeps_softmax: bool = False
    """Whether attention in fp32 of short sequences keeps its softmax, and pads nothing (see `ops.attention_cpu`)."""

    @property
    def is_mixed(self) -> bool:
        """Whether products cast what they read (autocast)."""
        return self.product != self.stream


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A tensor that waits for the backward pass; or several alike."""

    what: str
    part: Part
    size: int


@dataclass(frozen=True, kw_only=True)
class Portion:
    """A micro-batch of a rank."""

    sequences: int
    length: int
    """Positions of a sequence that a context rank has."""

    @property
    def positions(self) -> int:
        """T"""
        return self.sequences * self.length


@dataclass(frozen=True, kw_only=True)
class _Layer:
    model: ModelConfig
    layer: int
    layout: Layout
    portion: Portion
    numbers: Numbers

    @property
    def here(self) -> int:
        """Positions between modules, of which a tensor group has a part each."""
        return self.portion.positions // self.layout.tp

    @property
    def heads(self) -> int:
        return self.model.attention.num_attention_heads // self.layout.tp

    @property
    def keeps_softmax(self) -> bool:
        """Whether attention of this layer does; those of a window in blocks of their own are not told apart."""
        is_whole = self.layout.cp == 1 and self.portion.length <= MAX_LENGTH
        return self.numbers.keeps_softmax and self.numbers.product == _FLOAT32 and is_whole

    def norm(self, what: str, part: Part, rows: int, width: int, size: int) -> Iterator[Saved]:
        """Of `rows` rows, which are kept in `size` bytes a number where they are not kept elsewhere."""
        yield Saved(what=f"{what}, input", part=part, size=rows * width * size)
        yield Saved(what=f"{what}, scales", part=part, size=rows * max(size, _FLOAT32))

    def read(self, what: str, part: Part, rows: int, width: int, times: int, *, is_kept: bool = False) -> Saved:
        """What `times` products read: one tensor, or under autocast a cast for each, and it itself if it `is_kept`."""
        casts = times * self.numbers.product if self.numbers.is_mixed else 0
        kept = self.numbers.stream if is_kept or not self.numbers.is_mixed else 0
        return Saved(what=what, part=part, size=rows * width * (casts + kept))


def saved_of_layer(
    model: ModelConfig, layer: int, layout: Layout, portion: Portion, numbers: Numbers, recompute: Recompute
) -> list[Saved]:
    """What layer `layer` (those of multi-token prediction follow the last) keeps of a micro-batch."""
    at = _Layer(model=model, layer=layer, layout=layout, portion=portion, numbers=numbers)
    saved = [*_attention(at), *_feed_forward(at)]
    if model.norms == "sandwich":
        for name in ("attention_output_norm", "feed_forward_output_norm"):
            size = numbers.product if name.startswith("attention") or not model.is_moe_layer(layer) else numbers.stream
            saved += at.norm(name, "stream", at.here, model.hidden_size, size)
    saved += _casts(at)
    if layer >= model.num_hidden_layers:
        saved += _prediction(at)
    if isinstance(recompute, NoRecompute) or not recompute.layers.contains(layer):
        return saved
    return list(_recomputed(at, saved, recompute))


def _recomputed(at: _Layer, saved: Sequence[Saved], recompute: Recompute) -> Iterator[Saved]:
    wide = at.here * at.model.hidden_size * at.numbers.stream
    read = 2 if at.layer >= at.model.num_hidden_layers else 1
    match recompute:
        case FullRecompute():
            yield Saved(what="layer, input", part="stream", size=read * wide)
        case SelectiveRecompute():
            yield Saved(what="layer, input", part="stream", size=read * wide)
            yield from (one for one in _outputs(at) if _is_kept(one, recompute))
        case ModuleRecompute(modules=modules):
            yield from (one for one in saved if not _is_inside(one, modules))
            yield from _module_inputs(at, modules)
        case _:
            yield from saved


def _is_inside(one: Saved, modules: Sequence[str]) -> bool:
    """Casts of weights are let go of with their module, too."""
    if one.part == "weights":
        return any(_module_of(one.what, module) for module in modules)
    of_feed_forward = one.part in ("feed_forward", "experts", "shared_expert", "router")
    return one.part in modules or ("feed_forward" in modules and of_feed_forward)


def _module_of(name: str, module: str) -> bool:
    return f".{module}." in f".{name}"


def _module_inputs(at: _Layer, modules: Sequence[str]) -> Iterator[Saved]:
    """What each of the modules reads; a shared expert reads what the router keeps."""
    wide = at.here * at.model.hidden_size * at.numbers.stream
    is_mixture = at.model.is_moe_layer(at.layer)
    for module in modules:
        if module in ("attention", "feed_forward"):
            yield Saved(what=f"{module}, input", part="stream", size=wide)
        elif module == "experts" and isinstance(at.model.feed_forward, MoeFeedForward) and is_mixture:
            rows = at.here * at.model.feed_forward.router.num_experts_per_tok
            yield Saved(what="rows of experts", part="experts", size=rows * at.model.hidden_size * at.numbers.stream)
            counts = at.model.feed_forward.n_routed_experts // at.layout.ep
            yield Saved(what="counts and ends of segments", part="experts", size=counts * (_INT64 + _INT32))


def _is_kept(one: Saved, recompute: SelectiveRecompute) -> bool:
    kind = {"attention": "attention", "choice": "choice"}.get(one.what.split(",")[0], "products")
    is_repeated = kind != "choice" and any(
        _module_of(one.what, own)
        for name in recompute.repeated_in
        for own in (("q_b_proj", "kv_b_proj") if name == "latent_up_projection" else (name,))
    )
    return kind == "choice" or (kind in recompute.kept and not is_repeated)


def _attention(at: _Layer) -> Iterator[Saved]:
    yield from at.norm("attention_norm", "stream", at.here, at.model.hidden_size, at.numbers.stream)
    match at.model.attention:
        case GroupedQueryAttention() as attention:
            yield from _grouped_query(at, attention)
        case MultiHeadLatentAttention() as attention:
            yield from _latent(at, attention)


def _grouped_query(at: _Layer, attention: GroupedQueryAttention) -> Iterator[Saved]:
    rows, width = at.portion.positions, attention.head_dim
    keys = attention.num_key_value_heads // at.layout.tp
    yield at.read("q_proj k_proj v_proj, input", "attention", rows, at.model.hidden_size, 3)
    if attention.qk_norm == "per_head":
        for what, heads in (("q_norm", at.heads), ("k_norm", keys)):
            yield from at.norm(what, "attention", rows * heads, width, at.numbers.product)
    yield from _angles(at, 2, attention.rotary_width)
    yield from _core(at, keys, width, width)


def _latent(at: _Layer, attention: MultiHeadLatentAttention) -> Iterator[Saved]:
    rows, hidden, rank = at.portion.positions, at.model.hidden_size, attention.q_lora_rank
    if rank is None:
        yield at.read("q_proj, input", "attention", rows, hidden, 1, is_kept=False)
        if at.numbers.is_mixed or at.layout.tp > 1:
            yield Saved(what="kv_a_proj, input", part="attention", size=at.here * hidden * at.numbers.product)
    else:
        yield at.read("q_a_proj kv_a_proj, input", "attention", at.here, hidden, 2)
        yield from at.norm("q_a_norm", "attention", at.here, rank, at.numbers.product)
        yield Saved(what="q_b_proj, input", part="attention", size=rows * rank * at.numbers.product)
    latent, shared = attention.kv_lora_rank, attention.qk_rope_head_dim
    yield from at.norm("kv_a_norm", "attention", at.here, latent, at.numbers.product)
    # What the norm reads is a view of what the projection gives.
    yield Saved(what="shared key", part="attention", size=at.here * shared * at.numbers.product)
    yield Saved(what="kv_b_proj, input", part="attention", size=rows * latent * at.numbers.product)
    yield from _angles(at, 2, shared)
    yield from _core(at, at.heads, attention.qk_head_dim, attention.v_head_dim)


def _angles(at: _Layer, rotations: int, width: int) -> Iterator[Saved]:
    """Cosines and sines are one table for all layers; where rotations compute in another type, each casts its own."""
    if at.numbers.is_mixed:
        size = 2 * at.portion.length * width // 2 * at.numbers.product
        yield Saved(what="angles", part="attention", size=rotations * size)


def _core(at: _Layer, pairs: int, key: int, value: int) -> Iterator[Saved]:
    """Attention itself keeps what it reads, and what it gives with a number of each row; or its softmax, and then what
    it gives is what the next projection reads."""
    rows, size = at.portion.positions, at.numbers.product
    padded = max(key, value) if at.numbers.pads_values and not at.keeps_softmax else value
    yield Saved(what="queries", part="attention", size=rows * at.heads * key * size)
    yield Saved(what="keys and values", part="attention", size=rows * pairs * (key + padded) * size)
    yield Saved(what="attention, output", part="attention", size=rows * at.heads * padded * size)
    if at.keeps_softmax:
        scores = at.portion.sequences * at.heads * num_scores(at.portion.length)
        yield Saved(what="attention, softmax", part="attention", size=scores * size)
    else:
        yield Saved(what="attention, sums", part="attention", size=rows * at.heads * _FLOAT32)
        yield Saved(what="o_proj, input", part="attention", size=rows * at.heads * value * size)


def _feed_forward(at: _Layer) -> Iterator[Saved]:
    model, hidden = at.model, at.model.hidden_size
    yield from at.norm("feed_forward_norm", "stream", at.here, hidden, at.numbers.stream)
    mixture = model.feed_forward
    if isinstance(mixture, MoeFeedForward) and model.is_moe_layer(at.layer):
        yield from _mixture(at, mixture)
        return
    yield at.read("gate_proj up_proj, input", "feed_forward", at.portion.positions, hidden, 2)
    width = (mixture.intermediate_size or 0) // at.layout.tp
    yield from _gated(at, "feed_forward", at.portion.positions, width)


def _gated(at: _Layer, part: Part, rows: int, width: int) -> Iterator[Saved]:
    """gate, its activation, up, and their product, which the last projection reads."""
    feed_forward = at.model.feed_forward
    is_swiglu = not isinstance(feed_forward, MoeFeedForward) or isinstance(feed_forward.activation, SwigluActivation)
    # The clamped one keeps both before and after the clamp, its sigmoid, gate * sigmoid, and up + 1.
    tensors = 4 if is_swiglu else 7
    yield Saved(what="gate, up and activation", part=part, size=tensors * rows * width * at.numbers.product)


def _mixture(at: _Layer, mixture: MoeFeedForward) -> Iterator[Saved]:
    hidden, numbers = at.model.hidden_size, at.numbers
    rows = at.here * mixture.router.num_experts_per_tok
    yield at.read("router, input", "router", at.here, hidden, 0, is_kept=True)
    yield from _routing(at, mixture)
    reads = 2 * numbers.product if numbers.is_mixed else numbers.stream
    yield Saved(what="rows of experts", part="experts", size=rows * hidden * reads)
    yield from _gated(at, "experts", rows, mixture.moe_intermediate_size // at.layout.etp)
    yield Saved(what="results of experts", part="router", size=rows * hidden * numbers.product)
    yield Saved(what="weights of experts", part="router", size=rows * numbers.product)
    if mixture.n_shared_experts:
        width = mixture.moe_intermediate_size * mixture.n_shared_experts // at.layout.tp
        if numbers.is_mixed or at.layout.tp > 1:
            yield at.read("shared_expert, input", "shared_expert", at.portion.positions, hidden, 2)
        yield from _gated(at, "shared_expert", at.portion.positions, width)


def _routing(at: _Layer, mixture: MoeFeedForward) -> Iterator[Saved]:
    """Scores, choices, what normalises them, the balance loss, and where rows go. All in fp32 and int64."""
    router, experts, rows = mixture.router, mixture.n_routed_experts, at.here
    chosen, balance = rows * router.num_experts_per_tok, at.portion.sequences * experts
    yield Saved(what="scores", part="router", size=rows * experts * _FLOAT32)
    yield Saved(what="choice", part="router", size=chosen * _INT64)
    if isinstance(router, TopKSoftmaxRouter):
        yield Saved(what="weights", part="router", size=chosen * _FLOAT32)
    elif router.norm_topk_prob:
        yield Saved(what="weights", part="router", size=(chosen + rows) * _FLOAT32)
    yield Saved(what="sums of scores", part="router", size=rows * _FLOAT32)
    one_loss = experts if router.balance_scope == "micro_batch" else balance
    yield Saved(what="balance loss", part="router", size=(one_loss + 2 * balance) * _FLOAT32)
    yield Saved(what="order of rows", part="router", size=2 * chosen * _INT64)
    yield Saved(what="ends of segments", part="experts", size=experts // at.layout.ep * _INT32)


def _prediction(at: _Layer) -> Iterator[Saved]:
    """A layer of multi-token prediction: its norms, and the projection of what it joins."""
    rows, hidden, numbers = at.here, at.model.hidden_size, at.numbers
    for norm in ("embedding_norm", "hidden_norm", "output_norm"):
        yield from at.norm(norm, "stream", rows, hidden, numbers.stream)
    yield Saved(what="projection, input", part="stream", size=rows * 2 * hidden * numbers.product)


def _casts(at: _Layer) -> Iterator[Saved]:
    """Under autocast each product keeps the weight that it cast, of what FSDP has gathered."""
    if not at.numbers.is_mixed:
        return
    for one in parameters_of_layer(at.model, at.layer):
        if _is_cast(one):
            block = block_of(one, at.layout)
            yield Saved(what=one.name, part="weights", size=block.rows * block.row_size * at.numbers.product)


def _is_cast(one: Parameter) -> bool:
    """Matrices of products, and the scales of norms of what products gave; the router computes in fp32."""
    if one.name.endswith(".router.weight") or len(one.shape) < 2:
        return one.name.rpartition(".")[0].endswith(_NORMS_OF_PRODUCTS)
    return not one.name.endswith("_bias")


def _outputs(at: _Layer) -> Iterator[Saved]:
    """What products, attention and the router's choice give."""
    rows, mixture = at.portion.positions, at.model.feed_forward
    for one in parameters_of_layer(at.model, at.layer):
        if len(one.shape) < 2 or one.name.endswith(("_bias", "projection.weight")):
            continue
        block = block_of(one, at.layout)
        name, size = one.name, at.numbers.product
        if one.is_of_experts and isinstance(mixture, MoeFeedForward):
            cut = block.parameter.shape[1] // (at.layout.etp if one.cut == "expert_rows" else 1)
            outputs = at.here * mixture.router.num_experts_per_tok * cut
        elif name.endswith("router.weight"):
            outputs, size = at.here * one.shape[0], _FLOAT32
        else:
            outputs = (at.here if one.cut == "copied" else rows) * one.shape[0]
            outputs //= at.layout.tp if one.cut == "rows" else 1
        yield Saved(what=name, part="attention", size=outputs * size)
    yield from (one for one in _attention(at) if one.what.startswith("attention, "))
    if isinstance(mixture, MoeFeedForward) and at.model.is_moe_layer(at.layer):
        # The weighted sum of a token's rows is a product, too.
        combined = at.here * at.model.hidden_size * at.numbers.product
        yield Saved(what=".feed_forward.combined", part="router", size=combined)
        yield Saved(what="choice", part="router", size=_chosen_numbers(mixture) * at.here * (_FLOAT32 + _INT64))


def _chosen_numbers(mixture: MoeFeedForward) -> int:
    """Of a token, by each choice of largest scores: experts, those that the balance loss counts, and with groups the
    best experts of each and the best groups."""
    router = mixture.router
    if not isinstance(router, GroupedRouting) or router.n_group == 1:
        return 2 * router.num_experts_per_tok
    best = min(2 if isinstance(router, SigmoidRouter) else 1, mixture.n_routed_experts // router.n_group)
    return 2 * router.num_experts_per_tok + router.n_group * best + router.topk_group


def saved_of_head(model: ModelConfig, layout: Layout, portion: Portion, numbers: Numbers) -> int:
    """Bytes that the final norm and the loss keep, for each depth of multi-token prediction again, without logits (see
    `logits_of_head`); with the head's gradient where the loss goes through the logits in blocks."""
    rows, hidden = portion.positions, model.hidden_size
    words = model.vocab_size // layout.tp
    at = _Layer(model=model, layer=0, layout=layout, portion=portion, numbers=numbers)
    norm = sum(one.size for one in at.norm("output_norm", "stream", at.here, hidden, numbers.stream))
    weight = words * hidden * numbers.product if numbers.is_mixed else 0
    loss = rows * hidden * numbers.product + rows * _INT64
    if _is_in_blocks(model, layout, portion, numbers):
        loss += words * hidden * _FLOAT32
    return norm + weight + (1 + model.num_mtp_layers) * loss


def logits_of_head(model: ModelConfig, layout: Layout, portion: Portion, numbers: Numbers) -> tuple[int, int]:
    """Bytes of logits, in fp32: what the loss keeps of all depths of a micro-batch, and what its backward pass makes of
    one. In blocks nothing is kept, and a block's are there in the forward pass."""
    depths, words = 1 + model.num_mtp_layers, model.vocab_size // layout.tp
    if _is_in_blocks(model, layout, portion, numbers):
        return 0, 2 * _HEAD_BLOCK * words * _FLOAT32
    matrix = portion.positions * words * _FLOAT32
    # A vocabulary that is cut over a tensor group has a loss of one operation more.
    return depths * matrix, (3 if layout.tp > 1 else 2) * matrix


def _is_in_blocks(model: ModelConfig, layout: Layout, portion: Portion, numbers: Numbers) -> bool:
    """As `ops.cross_entropy` decides."""
    is_plain = model.logit_soft_cap is None and model.z_loss == 0
    return is_plain and numbers.product >= _FLOAT32 and layout.tp == 1 and portion.positions > _HEAD_BLOCK
