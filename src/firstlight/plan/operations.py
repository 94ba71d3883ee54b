"""The operations of a layer on one rank, for one micro-batch: FLOPs and bytes, from the parameters of `layout/`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from firstlight.config.model import MoeFeedForward
from firstlight.layout.counts import seen_positions
from firstlight.layout.parameters import Parameter, block_of, parameters_of_layer
from firstlight.layout.stages import Stage
from firstlight.plan.hardware import Precision
from firstlight.plan.work import Work

Kind = Literal["product", "attention", "pointwise"]

_READS_AND_WRITES = {True: 14, False: 30}
"""Passes over the stream that norms, rotations, sums and casts of a layer make forward, joined by a compiler or not."""
_ACTIVATION_PASSES = {True: 3, False: 6}
"""Over a gated width: gate and up read and their product written; unfused with its parts and casts."""
_LAUNCHES = {True: 6, False: 16}
"""Kernels of norms, rotations, sums and casts of a layer, forward."""
_ROUTING_LAUNCHES = 30
"""Scores, choice, sorting, counts, gathers and sums of a mixture, forward."""
_BACKWARD_ATTENTION = 2.5
"""Five products for each two of the forward pass: scores are computed again."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Forward FLOPs and bytes of memory traffic of one micro-batch. The backward pass has `backward` times as many."""

    what: str
    kind: Kind
    precision: Precision = "bf16"
    flops: float = 0.0
    size: float = 0.0
    """Bytes read and written."""
    smallest: int = 1 << 20
    """The smallest side of a matrix product, which bounds its efficiency."""
    has_weight: bool = False
    """Whether half of the backward pass is the gradient of a weight."""
    backward: float = 2.0
    launches: int = 1
    """Kernels that it takes, each with its start and end."""


def operations_of_layer(work: Work, layer: int) -> list[Operation]:
    """Of layer `layer`; those of multi-token prediction follow the last."""
    matrices = [
        one for one in parameters_of_layer(work.model, layer) if len(one.shape) > 1 and not one.name.endswith("_bias")
    ]
    products = [_product(work, one) for one in matrices]
    return [*products, *_casts(work, products), *_attention(work, layer), *_pointwise(work, layer)]


def _casts(work: Work, products: Sequence[Operation]) -> Iterator[Operation]:
    """What products in fp8 read is scaled and cast before: two bytes read and one written of each number, and again
    of the other side for each product of the backward pass."""
    if work.practice.precision == "fp8":
        size = sum(one.size for one in products if one.precision == "fp8")
        yield Operation(what="casts", kind="pointwise", size=size, launches=2 * len(products))


def operations_of_ends(work: Work, stage: Stage) -> list[Operation]:
    """Of the embedding and the head where the stage has them."""
    model, rows = work.model, work.portion.positions
    wide = work.practice.numbers.product * model.hidden_size * rows
    found = [Operation(what="embedding", kind="pointwise", size=2 * wide / work.layout.tp)] if stage.is_first else []
    if stage.is_last:
        words = model.vocab_size // work.layout.tp
        for _ in range(1 + model.num_mtp_layers):
            found.append(_matrix(work, "head", rows, words, model.hidden_size, "bf16"))
            # Logits are written, read for the maximum, for the sum and for the gradient, in fp32.
            found.append(Operation(what="loss", kind="pointwise", size=4 * 4 * rows * words, backward=0.5))
    return found


def _product(work: Work, one: Parameter) -> Operation:
    """The product of a matrix that a rank has a block of."""
    layout, rows = work.layout, work.portion.positions
    precision = "fp32" if one.name.endswith("router.weight") else work.practice.precision
    if one.is_of_experts:
        return _grouped(work, one)
    if one.cut == "copied":
        rows //= layout.tp
    outer, inner = one.shape
    if one.cut == "rows":
        outer //= layout.tp
    elif one.cut == "columns":
        inner //= layout.tp
    return _matrix(work, one.name, rows, outer, inner, precision)


def _matrix(work: Work, what: str, rows: int, outer: int, inner: int, precision: Precision) -> Operation:
    size = work.practice.numbers.product * (rows * inner + rows * outer + outer * inner)
    return Operation(
        what=what,
        kind="product",
        precision=precision if work.practice.precision != "fp32" else "fp32",
        flops=2.0 * rows * outer * inner,
        size=size,
        smallest=min(rows, outer, inner),
        has_weight=True,
    )


def _grouped(work: Work, one: Parameter) -> Operation:
    """Of the experts of a rank, each with its even share of the rows that come to it."""
    layout, mixture = work.layout, work.model.feed_forward
    assert isinstance(mixture, MoeFeedForward), "experts are of a mixture"
    block = block_of(one, layout)
    rows = routed_rows(work) * layout.etp
    experts = mixture.n_routed_experts // layout.ep
    elements = block.rows * block.row_size
    matrix = elements // experts
    width = prod(one.shape[1:]) // work.model.hidden_size // layout.etp
    outer_and_inner = work.model.hidden_size + width
    return Operation(
        what=one.name,
        kind="product",
        precision=work.practice.precision,
        flops=2.0 * rows * matrix,
        size=work.practice.numbers.product * (rows * outer_and_inner + elements),
        smallest=min(max(1, rows // experts), width),
        has_weight=True,
    )


def routed_rows(work: Work) -> int:
    """That a rank sends to experts, and with even shares computes, in a layer."""
    mixture = work.model.feed_forward
    if not isinstance(mixture, MoeFeedForward):
        return 0
    return work.portion.positions // work.layout.tp * mixture.router.num_experts_per_tok


def _attention(work: Work, layer: int) -> Iterator[Operation]:
    attention, rows = work.model.attention, work.portion.positions
    heads = attention.num_attention_heads // work.layout.tp
    seen = seen_positions(work.model, layer, work.sequence_length)
    flops = 2.0 * rows * seen * heads * attention.score_widths
    if work.practice.attention == "fused":
        yield Operation(what="attention", kind="attention", flops=flops, backward=_BACKWARD_ATTENTION)
        return
    # All scores, not their causal half; they are computed again before the backward pass.
    whole = 2.0 * rows * work.sequence_length * heads * attention.score_widths
    scores = rows * work.sequence_length * heads * work.practice.numbers.product
    yield Operation(
        what="attention",
        kind="product",
        flops=whole,
        size=8.0 * scores,
        smallest=attention.score_widths // 2,
        backward=3,
    )


def _pointwise(work: Work, layer: int) -> Iterator[Operation]:
    """What moves memory and computes little: norms, rotations, activations, sums; rows to and from experts."""
    model, practice, layout = work.model, work.practice, work.layout
    is_fused, size = practice.has_fused_pointwise, practice.numbers.product
    here = work.portion.positions // layout.tp
    stream = here * model.hidden_size * size
    yield Operation(
        what="norms and sums", kind="pointwise", size=_READS_AND_WRITES[is_fused] * stream, launches=_LAUNCHES[is_fused]
    )
    feed_forward = model.feed_forward
    if isinstance(feed_forward, MoeFeedForward) and model.is_moe_layer(layer):
        rows = routed_rows(work)
        width = feed_forward.moe_intermediate_size // layout.etp
        shared = feed_forward.moe_intermediate_size * feed_forward.n_shared_experts // layout.tp
        passes = _ACTIVATION_PASSES[is_fused] * size
        gated = rows * layout.etp * width + work.portion.positions * shared
        yield Operation(what="activation", kind="pointwise", size=passes * gated)
        # Rows are sorted, received, sorted back and added up: read and written each time.
        sorted_size = 8.0 * rows * model.hidden_size * size
        yield Operation(what="rows sorted", kind="pointwise", size=sorted_size, launches=_ROUTING_LAUNCHES)
    else:
        width = (feed_forward.intermediate_size or 0) // layout.tp
        gated = work.portion.positions * width
        yield Operation(what="activation", kind="pointwise", size=_ACTIVATION_PASSES[is_fused] * size * gated)
