"""The data section: what is read, in which order, and what is held out."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from firstlight.config.section import AbsolutePath, Count, Fraction, Positive, Section

Weight = Annotated[Positive | None, Field()]


class MegatronSource(Section):
    """A Megatron data set: `path` with `.bin` and `.idx` appended."""

    kind: Literal["megatron"] = "megatron"
    path: AbsolutePath
    weight: Weight = 1.0
    """The share of the samples that come from here, relative to the other sources' weights; `null` for every source:
    as many as it has, so that all are read equally often."""


class MindRecordSource(Section):
    """A MindRecord set, one file or the first of several shards; each row is one sample."""

    kind: Literal["mindrecord"] = "mindrecord"
    path: AbsolutePath
    weight: Weight = 1.0
    """As a Megatron source's."""
    tokens_column: str = "input_ids"
    """Rows of `sequence_length` + 1 tokens, or of `sequence_length` where there is a column of labels."""
    labels_column: str | None = None
    """The tokens one place later; -100 at the end of a row is left out of the loss."""


class HuggingFaceSource(Section):
    """Text that is read and tokenised while training: files, a folder of them, or a data set of the Hub by its name."""

    kind: Literal["huggingface"] = "huggingface"
    path: str
    """A folder or file of JSON lines, Parquet or text, a folder that `datasets` saved, or a name on the Hub."""
    name: str | None = None
    """The configuration of a Hub data set that has several."""
    split: str = "train"
    text_key: str = "text"
    shuffle_buffer: Annotated[int, Field(ge=0)] = 0
    """Shuffle documents within a buffer of so many, anew in each epoch; 0 reads them as they come."""
    weight: Weight = 1.0
    """As a Megatron source's."""


class MockSource(Section):
    """Made-up tokens (Megatron's MockGPTDataset): for benchmarks and dry runs, from no file."""

    kind: Literal["mock"] = "mock"
    weight: Weight = 1.0
    """As a Megatron source's."""


Source = MegatronSource | MindRecordSource | HuggingFaceSource | MockSource


def _with_kind(value: Any) -> Any:
    return {"kind": "megatron", **value} if isinstance(value, Mapping) else value


def _at_least_one(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    # Not a length on the field: pydantic would call a list with one faulty item too short as well.
    if not sources:
        raise ValueError("is empty; name at least one data set")
    with_weight = [source.weight is not None for source in sources]
    if any(with_weight) and not all(with_weight):
        raise ValueError("has sources with a weight and sources without; give every one a weight, or null to every one")
    return sources


class FillInTheMiddle(Section):
    """Documents rearranged so that the model learns to fill gaps (arXiv:2207.14255); tokens are named by their text."""

    rate: Fraction
    """The share of documents that are rearranged."""
    spm_rate: Fraction = 0.5
    """Of these, the share in the order suffix, prefix, middle; the others have prefix, suffix, middle."""
    prefix_token: str
    middle_token: str
    suffix_token: str


class TrainData(Section):
    """What the model learns from; several sources are mixed by weight as in Megatron-LM's BlendedDataset."""

    sources: Annotated[
        tuple[Annotated[Source, Field(discriminator="kind"), BeforeValidator(_with_kind)], ...],
        AfterValidator(_at_least_one),
    ]
    order: Literal["megatron", "permuted", "packed", "sequential"] = "megatron"
    """`megatron` is Megatron-LM's GPTDataset order, to the bit; `permuted` needs no index and starts at once; `packed`
    puts whole documents into rows by best fit; `sequential` reads the files as they lie."""
    sequence_length: Count
    split: str = "1,0,0"
    """Shares of each source for train, validation and test, as Megatron writes them; the first one is trained on."""
    index_cache: AbsolutePath | None = None
    """Keep the order `megatron` in this folder for the next start; worth it from ten million documents or so."""
    documents: Literal["joined", "separate"] = "joined"
    """`separate`: documents in one sequence do not see each other, and each counts its positions from 0."""
    mask_after_end_of_document: bool = False
    """Leave out the loss of predicting a document's first token from the end of another (Megatron's eod_mask_loss)."""
    fill_in_the_middle: FillInTheMiddle | None = None


class Loader(Section):
    """How batches are made ready while the last one is trained on."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read; 0: a thread of the training process. A worker that dies is started again."""
    prefetch: Annotated[int, Field(ge=0)] = 2
    """Global batches made ready ahead by the thread (workers: one each); 0 reads when a batch is asked for."""


class MegatronHeldOut(Section):
    """A Megatron data set that is only evaluated: read from its start, in order."""

    kind: Literal["megatron"] = "megatron"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    path: AbsolutePath
    split: str | None = None
    """Shares as in `data.train.split`, of which one is evaluated; null: the whole set."""
    share: Literal["train", "validation", "test"] = "validation"
    """Which share of `split`."""


class MindRecordHeldOut(Section):
    """A MindRecord set that is only evaluated."""

    kind: Literal["mindrecord"] = "mindrecord"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    path: AbsolutePath
    tokens_column: str = "input_ids"
    labels_column: str | None = None


def _names_differ(sources: "tuple[BlendedHeldOut, ...]") -> "tuple[BlendedHeldOut, ...]":
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"has the names {names}; give one source or more, each with a name of its own")
    return sources


class BlendedHeldOut(MegatronHeldOut):
    """A source of a held-out blend."""

    weight: Positive = 1.0
    """Its share of the blend's loss, relative to the other sources' weights."""


class HeldOutBlend(Section):
    """Several held-out sets that stand for a mixture: the loss of each, and their mean by weights."""

    kind: Literal["blend"] = "blend"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    sources: Annotated[tuple[BlendedHeldOut, ...], AfterValidator(_names_differ)]
    """Each one's figures are under NAME/SOURCE."""

    @property
    def shares(self) -> dict[str, float]:
        """Of each source in the blend, by the name that its figures have."""
        total = sum(source.weight for source in self.sources)
        return {f"{self.name}/{source.name}": source.weight / total for source in self.sources}


HeldOut = MegatronHeldOut | MindRecordHeldOut
AnyHeldOut = MegatronHeldOut | MindRecordHeldOut | HeldOutBlend


class DataConfig(Section):
    """Training data, held-out data and the tokenizer that made them."""

    train: TrainData
    evaluate: tuple[Annotated[AnyHeldOut, Field(discriminator="kind"), BeforeValidator(_with_kind)], ...] = ()
    tokenizer: AbsolutePath
    loader: Loader = Loader()

    @property
    def held_out(self) -> dict[str, HeldOut]:
        """All held-out sets that are read, those of blends one by one, by the names that their figures have."""
        sets: dict[str, HeldOut] = {}
        for one in self.evaluate:
            parts = zip(one.shares, one.sources, strict=True) if isinstance(one, HeldOutBlend) else [(one.name, one)]
            sets |= dict(parts)
        return sets
