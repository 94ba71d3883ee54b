"""Attention in blocks: the parts join to what the definition gives, whatever computes them; nothing hidden is visited.

Shapes: b batch, h query heads, g key/value heads, s sequence, k query/key width, v value width.
"""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from firstlight.ops.attention import Visibility, reference_causal_attention
from firstlight.ops.attention_blocks import Block, Part, blocks_between, join_part
from firstlight.ops.block_kernels import BlockKernel, CpuKernel, CudaKernel, DefinitionKernel

KERNELS = {"cpu": CpuKernel(), "definition": DefinitionKernel()}
SIZES = {"grouped": (4, 2, 8, 8), "narrow_value": (4, 4, 12, 8), "wide_value": (2, 1, 8, 12)}
LENGTH, CHUNK, SCALE = 24, 6, 0.37
WINDOWS = [None, 1, 5, 11]


def heads(sizes: tuple[int, int, int, int], *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    query_heads, key_heads, width, value_width = sizes
    generator = torch.Generator().manual_seed(1)
    shapes = ((query_heads, width), (key_heads, width), (key_heads, value_width))
    return [torch.randn(2, n, LENGTH, w, generator=generator).to(dtype).requires_grad_() for n, w in shapes]


def documents() -> Tensor:
    """Some as short as one position; the rows differ."""
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(2, LENGTH, generator=generator) < 0.3).cumsum(1)


def chunks() -> list[range]:
    return [range(start, start + CHUNK) for start in range(0, LENGTH, CHUNK)]


def blocks(window: int | None, kernel: BlockKernel, *, has_documents: bool) -> Iterator[Block]:
    for queries in chunks():
        for keys in reversed(chunks()):
            yield from blocks_between(
                queries, keys, window=window, has_documents=has_documents, is_fused=kernel.is_fused
            )


def place(block: Block) -> tuple[slice, slice]:
    return slice(block.queries.start, block.queries.stop), slice(block.keys.start, block.keys.stop)


def in_blocks(
    kernel: BlockKernel, qkv: Sequence[Tensor], grad: Tensor, window: int | None, of: Tensor | None
) -> list[Tensor]:
    """Output and gradients, the last keys first: queries then see nothing in their first blocks."""
    query, key, value = (x.detach() for x in qkv)
    precise = torch.promote_types(query.dtype, torch.float32)
    joined = Part(torch.zeros(grad.shape, dtype=precise), torch.full(grad.shape[:-1], -torch.inf, dtype=precise))
    visited = [(block, place(block)) for block in blocks(window, kernel, has_documents=of is not None)]
    for block, (rows, columns) in visited:
        mask = block.mask(of, query.device)
        part = kernel.attend(
            query[:, :, rows], key[:, :, columns], value[:, :, columns], scale=SCALE, block=block, mask=mask
        )
        join_part(Part(joined.out[:, :, rows], joined.log_sum[:, :, rows]), part)
    out = joined.out.to(query.dtype)
    sums = [torch.zeros(x.shape, dtype=precise) for x in qkv]
    for block, (rows, columns) in visited:
        parts = kernel.gradients(
            grad[:, :, rows],
            query[:, :, rows],
            key[:, :, columns],
            value[:, :, columns],
            Part(out[:, :, rows], joined.log_sum[:, :, rows]),
            scale=SCALE,
            block=block,
            mask=block.mask(of, query.device),
        )
        for total, where, part in zip(sums, (rows, columns, columns), parts, strict=True):
            total[:, :, where] += part
    return [out, *sums]


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_blocks_join_to_the_definition(
    kernel: BlockKernel, sizes: tuple[int, int, int, int], window: int | None, is_packed: bool
) -> None:
    qkv, of = heads(sizes), documents() if is_packed else None
    expected = reference_causal_attention(*qkv, scale=SCALE, window=window, visibility=Visibility(of))
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=expected.dtype)
    expected.backward(grad)
    found = in_blocks(kernel, qkv, grad, window, of)
    for here, there in zip(found, [expected, *(x.grad for x in qkv)], strict=True):
        torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_half_precision_is_as_near_as_its_numbers(kernel: BlockKernel) -> None:
    qkv = heads(SIZES["narrow_value"], dtype=torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in qkv]
    expected = reference_causal_attention(*exact, scale=SCALE, window=11)
    grad = torch.ones_like(expected)
    expected.backward(grad)
    found = in_blocks(kernel, qkv, grad.bfloat16(), 11, None)
    for here, there in zip(found, [expected, *(x.grad for x in exact)], strict=True):
        torch.testing.assert_close(here.double(), there, rtol=0.03, atol=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_cuda_computes_what_the_definition_does(sizes: tuple[int, int, int, int]) -> None:
    query, key, value = (x.detach().cuda() for x in heads(sizes, dtype=torch.bfloat16))
    grad = torch.randn((*query.shape[:-1], value.shape[-1]), device="cuda", dtype=torch.bfloat16)
    kernel = CudaKernel()
    for sees in ("all", "causal"):
        block = Block(queries=range(LENGTH), keys=range(LENGTH), sees=sees)
        both = []
        for one in (kernel, DefinitionKernel()):
            joined = one.attend(query, key, value, scale=SCALE, block=block, mask=None)
            both.append([*joined, *one.gradients(grad, query, key, value, joined, scale=SCALE, block=block, mask=None)])
        for here, there in zip(*both, strict=True):
            torch.testing.assert_close(here.float(), there.float(), rtol=0.03, atol=0.03)


def test_arguments_of_the_cuda_kernel_are_those_of_this_torch() -> None:
    # Shapes alone: heads that share keys, widths that differ and are no multiple of what the kernel takes.
    shapes = (2, 4, LENGTH, 20), (2, 2, LENGTH, 20), (2, 2, LENGTH, 12)
    query, key, value = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes)
    block = Block(queries=range(LENGTH), keys=range(LENGTH), sees="causal")
    joined = CudaKernel().attend(query, key, value, scale=SCALE, block=block, mask=None)
    assert (joined.out.shape, joined.log_sum.shape) == ((2, 4, LENGTH, 12), (2, 4, LENGTH))
    grad = torch.empty_like(joined.out)
    parts = CudaKernel().gradients(grad, query, key, value, joined, scale=SCALE, block=block, mask=None)
    assert tuple(part.shape for part in parts) == shapes


def test_what_a_mask_hides_whole_is_not_visited() -> None:
    def visited(queries: range, keys: range, window: int | None = None) -> list[tuple[str, range]]:
        found = blocks_between(queries, keys, window=window, has_documents=False, is_fused=True)
        return [(block.sees, block.keys) for block in found]

    first, second, third = range(6), range(6, 12), range(12, 18)
    assert visited(first, second) == []
    assert visited(second, first) == [("all", first)]
    assert visited(second, second) == [("causal", second)]
    assert visited(third, first, window=7) == []
    # Position 12 sees eight places, the first of them 5.
    assert visited(third, first, window=8) == [("some", range(5, 6))]


@pytest.mark.parametrize("window", [None, 300, 900])
@pytest.mark.parametrize("is_fused", [False, True])
def test_each_pair_is_visited_once_in_blocks_of_few_queries(window: int | None, is_fused: bool) -> None:
    length, chunk = 2400, 1200
    seen = torch.zeros(length, length, dtype=torch.int8)
    spans = [range(start, start + chunk) for start in range(0, length, chunk)]
    for queries in spans:
        for keys in spans:
            for block in blocks_between(queries, keys, window=window, has_documents=False, is_fused=is_fused):
                assert len(block.queries) <= 512 or (is_fused and block.sees != "some")
                mask = block.mask(None, seen.device)
                part = seen[block.queries.start : block.queries.stop, block.keys.start : block.keys.stop]
                if block.sees == "causal":
                    mask = torch.ones(1, 1, *part.shape, dtype=torch.bool).tril()
                part += torch.ones_like(part) if mask is None else mask[0, 0]
    distance = torch.arange(length)[:, None] - torch.arange(length)
    assert torch.equal(seen.bool(), (distance >= 0) & (distance < (window or length)))
    assert seen.max() == 1
