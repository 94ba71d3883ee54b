"""Which implementation of an operator computes, where there is more than one."""

from typing import Literal

from firstlight.config.section import Section

AttentionKernel = Literal["auto", "blocks", "fused", "reference"]
ExpertsKernel = Literal["auto", "grouped_mm", "reference"]
NormKernel = Literal["auto", "fused", "reference"]
LossKernel = Literal["auto", "linear_cross_entropy", "reference"]


class KernelsConfig(Section):
    """Which implementation of an operator computes. The log says at the start what `auto` takes. `reference` is the
    definition, slow and with memory that `firstlight plan` does not count: for finding an error."""

    attention: AttentionKernel = "auto"
    """blocks: products over blocks of queries, for up to 512 positions in fp32 on CPU. fused: torch's attention.
    reference: the whole matrix of scores."""
    experts: ExpertsKernel = "auto"
    """grouped_mm: torch's grouped product, of rows in fp32 or bf16 that are multiples of 16 bytes. reference: a product
    for each expert."""
    norm: NormKernel = "auto"
    """fused: one kernel that keeps what it reads. reference: by its formula."""
    loss: LossKernel = "auto"
    """linear_cross_entropy: head and loss in one, without the logits of all positions where products are in fp32.
    reference: logits, and a loss of them."""
