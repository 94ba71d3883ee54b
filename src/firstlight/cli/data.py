"""`firstlight tokenizer train` and `firstlight prepare`: text into tokens. Never imports torch."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from firstlight.base.errors import InputError
from firstlight.base.world import available_cores
from firstlight.data.corpus import Corpus, corpus_files, standard_library
from firstlight.data.document import Reader
from firstlight.data.mindrecord_output import SUFFIX, prepare_mindrecord
from firstlight.data.prepare import PrepareRequest, PrepareSummary
from firstlight.data.prepare import prepare as prepare_megatron
from firstlight.data.set_builder import SetSummary
from firstlight.data.tokenizer import train_tokenizer

tokenizer_app = typer.Typer(no_args_is_help=True, help="Make a tokenizer.")


class Documents(StrEnum):
    """What one document of a text file is."""

    FILE = "file"
    LINE = "line"
    BLANK_LINE = "blank-line"
    ARTICLE = "article"
    PARAGRAPH = "paragraph"


class Format(StrEnum):
    """How a file is read."""

    AUTO = "auto"
    TEXT = "text"
    JSONL = "jsonl"
    WIKITEXT = "wikitext"
    PARQUET = "parquet"
    ARROW = "arrow"


class Encoders(StrEnum):
    """What encodes the text."""

    AUTO = "auto"
    TOKENIZERS = "tokenizers"
    GIGATOKEN = "gigatoken"


class OnError(StrEnum):
    """What to do about a document that cannot be read."""

    STOP = "stop"
    SKIP = "skip"


class Rows(StrEnum):
    """How documents become rows of one length."""

    STITCH = "stitch"
    PAD = "pad"


class Dtype(StrEnum):
    """How ids are stored."""

    AUTO = "auto"
    UINT16 = "uint16"
    INT32 = "int32"


class OutputFormat(StrEnum):
    """What is written."""

    MEGATRON = "megatron"
    MINDRECORD = "mindrecord"


TokenizerOption = Annotated[
    Path, typer.Option(help="A tokenizer.json, .tiktoken or .model file, or a folder with one.", show_default=False)
]
MoreInputs = Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More of --input.")]
Inputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--input",
        metavar="PATH...",
        help="Text, .jsonl, .parquet or .arrow files, compressed or not, folders of them or saved by datasets, "
        "'quoted/*.txt' patterns, - for standard input; several may follow. Without it: Python's own standard library.",
    ),
]
DocumentsOption = Annotated[
    Documents | None,
    typer.Option(
        "--documents", help="What one document is: of text, file (default), line, blank-line; of WikiText, article ..."
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How files are read; auto: by their names.")]
OnErrorOption = Annotated[
    OnError, typer.Option(help="At a document that cannot be read: stop, or leave it out and say so.")
]
EncoderOption = Annotated[
    Encoders, typer.Option(help="What encodes: gigatoken where it is installed and agrees, or tokenizers.")
]
RowsOption = Annotated[
    Rows | None, typer.Option(help="Rows of one length instead of documents: all stitched and cut, or each padded.")
]
SequenceLength = Annotated[
    int | None, typer.Option(min=1, help="Rows have one token more than this.", show_default=False)
]
OutputFormatOption = Annotated[
    OutputFormat, typer.Option(help="Megatron's .bin and .idx, or MindSpore's .mindrecord with a column input_ids.")
]
Shards = Annotated[int | None, typer.Option(min=1, max=1000, help="MindRecord files in each set; default: one.")]
JsonKey = Annotated[str, typer.Option(help="The key or column that holds the text in JSON lines, Parquet or Arrow.")]


@tokenizer_app.command("train")
def train_tokenizer_verb(
    vocab_size: Annotated[int, typer.Option(help="Number of ids, special tokens included.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The tokenizer.json to write.", show_default=False)],
    inputs: Inputs = None,
    more_inputs: MoreInputs = None,
    json_key: JsonKey = "text",
) -> None:
    """Train a byte-level BPE tokenizer on text."""
    files = corpus_files(_all(inputs, more_inputs)) if inputs or more_inputs else standard_library()
    corpus = Corpus(files, Reader(json_key=json_key))
    tokenizer = train_tokenizer(corpus.texts(), vocab_size)
    output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(output))
    source = f"{len(files):,} files with {corpus.num_bytes / 1e6:.1f} MB"
    typer.echo(f"{output}: {tokenizer.get_vocab_size():,} tokens, from {source}")


def prepare(  # noqa: PLR0913  (one argument for each flag of the verb)
    tokenizer: TokenizerOption,
    output_prefix: Annotated[
        Path,
        typer.Option(help="Writes PREFIX_text_document.bin and .idx (or .mindrecord), PREFIX.json", show_default=False),
    ],
    inputs: Inputs = None,
    more_inputs: MoreInputs = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; default: one for each core.")] = None,
    held_out_fraction: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of whole documents kept apart for evaluation.")
    ] = 0.0,
    format_: Annotated[
        Format, typer.Option("--format", help="How files are read; auto: by their names.")
    ] = Format.AUTO,
    documents: DocumentsOption = None,
    json_key: JsonKey = "text",
    on_error: OnErrorOption = OnError.STOP,
    encoder: EncoderOption = Encoders.AUTO,
    bos_token: Annotated[str | None, typer.Option(help="A token to begin every document with; default: none.")] = None,
    eod_token: Annotated[str | None, typer.Option(help="The token that ends a document; default: found.")] = None,
    append_eod: Annotated[bool, typer.Option(help="End every document with that token.")] = True,
    parse_special_tokens: Annotated[
        bool, typer.Option(help="Take special tokens that are spelled out in the text for what they say.")
    ] = False,
    rows: RowsOption = None,
    sequence_length: SequenceLength = None,
    pad_token: Annotated[str | None, typer.Option(help="The token that fills rows up.", show_default=False)] = None,
    dtype: Annotated[Dtype, typer.Option(help="How ids are stored; auto: as Megatron does.")] = Dtype.AUTO,
    resume: Annotated[bool, typer.Option(help="Go on where an earlier, killed run of the same had come to.")] = True,
    output_format: OutputFormatOption = OutputFormat.MEGATRON,
    shards: Shards = None,
) -> None:
    """Turn text into a Megatron or MindRecord data set of token ids, and a held-out one."""
    prepare_data, suffix = _writer(output_format, shards)
    summary = prepare_data(
        PrepareRequest(
            inputs=tuple(_all(inputs, more_inputs)),
            tokenizer=tokenizer,
            output_prefix=output_prefix,
            held_out_fraction=held_out_fraction,
            format=format_.value,
            documents=documents.value if documents else None,
            json_key=json_key,
            on_error=on_error.value,
            encoder=encoder.value,
            bos_token=bos_token,
            eod_token=eod_token,
            append_eod=append_eod,
            parse_special_tokens=parse_special_tokens,
            rows=rows.value if rows else None,
            sequence_length=sequence_length,
            pad_token=pad_token,
            dtype=dtype.value,
            workers=workers or available_cores(),
            resume=resume,
        )
    )
    _say(summary, suffix)


def _writer(output_format: OutputFormat, shards: int | None) -> tuple[Callable[[PrepareRequest], PrepareSummary], str]:
    """What prepares, and what its files end in."""
    if output_format is OutputFormat.MINDRECORD:
        return partial(prepare_mindrecord, num_shards=shards or 1), SUFFIX
    if shards is not None:
        raise InputError("--shards is for --output-format mindrecord; a Megatron data set is always two files")
    return prepare_megatron, ".bin"


def _say(summary: PrepareSummary, suffix: str) -> None:
    for name, one in (("training", summary.training), ("held out", summary.held_out)):
        if one is not None:
            typer.echo(f"{name}: {_describe(one, suffix)}")
    if summary.num_left_out:
        typer.echo(f"left out: {summary.num_left_out:,} documents that could not be read, named in {summary.metadata}")
    typer.echo(f"about them: {summary.metadata}")


def _all(inputs: list[Path] | None, more: list[Path] | None) -> list[Path]:
    return [*(inputs or []), *(more or [])]


def _describe(one: SetSummary, suffix: str) -> str:
    return (
        f"{one.prefix}{suffix}: {one.documents:,} documents, {one.tokens:,} tokens, {one.bytes / 1e6:.1f} MB of text "
        f"({one.bytes_per_token:.2f} bytes per token)"
    )
