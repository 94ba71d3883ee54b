"""The data section: what is read, in which order, and what is held out."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from firstlight.config.section import AbsolutePath, Count, Positive, Section


class Source(Section):
    """A Megatron data set: `path` with `.bin` and `.idx` appended."""

    path: AbsolutePath
    weight: Positive = 1.0
    """The share of the samples that come from here, relative to the other sources' weights."""


def _at_least_one(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    # Not a length on the field: pydantic would call a list with one faulty item too short as well.
    if not sources:
        raise ValueError("is empty; name at least one data set")
    return sources


class TrainData(Section):
    """What the model learns from; several sources are mixed by weight as in Megatron-LM's BlendedDataset."""

    sources: Annotated[tuple[Source, ...], AfterValidator(_at_least_one)]
    order: Literal["megatron", "permuted"] = "megatron"
    """`megatron` is Megatron-LM's GPTDataset order, to the bit; `permuted` needs no index and starts at once."""
    sequence_length: Count
    split: str = "1,0,0"
    """Shares of each source for train, validation and test, as Megatron writes them; the first one is trained on."""
    mask_after_end_of_document: bool = False
    """Leave out the loss of predicting a document's first token from the end of another (Megatron's eod_mask_loss)."""


class HeldOut(Section):
    """A data set that is only evaluated: read from its start, in order."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    path: AbsolutePath


class DataConfig(Section):
    """Training data, held-out data and the tokenizer that made them."""

    train: TrainData
    evaluate: tuple[HeldOut, ...] = ()
    tokenizer: AbsolutePath
