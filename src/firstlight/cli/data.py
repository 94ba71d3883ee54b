"""`firstlight tokenizer train` and `firstlight prepare`: text into tokens. Never imports torch."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from firstlight.base.world import available_cores
from firstlight.data.corpus import Corpus, corpus_files, standard_library
from firstlight.data.document import Reader
from firstlight.data.prepare import PrepareRequest, SetSummary
from firstlight.data.prepare import prepare as prepare_data
from firstlight.data.tokenizer import train_tokenizer

tokenizer_app = typer.Typer(no_args_is_help=True, help="Make a tokenizer.")


class Documents(StrEnum):
    """What one document of a text file is."""

    FILE = "file"
    LINE = "line"
    BLANK_LINE = "blank-line"


MoreInputs = Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More of --input.")]
Inputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--input",
        metavar="PATH...",
        help="Text files, .jsonl files or folders; several may follow. Without it: Python's own standard library.",
    ),
]
DocumentsOption = Annotated[Documents, typer.Option("--documents", help="What one document of a text file is.")]
JsonKey = Annotated[str, typer.Option(help="The key that holds the text in JSON lines.")]


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
    tokenizer: Annotated[Path, typer.Option(help="A tokenizer.json, or a folder with one.", show_default=False)],
    output_prefix: Annotated[
        Path, typer.Option(help="Writes PREFIX_text_document.bin and .idx, PREFIX.json ...", show_default=False)
    ],
    inputs: Inputs = None,
    more_inputs: MoreInputs = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; default: one for each core.")] = None,
    held_out_fraction: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of whole documents kept apart for evaluation.")
    ] = 0.0,
    documents: DocumentsOption = Documents.FILE,
    json_key: JsonKey = "text",
    eod_token: Annotated[str | None, typer.Option(help="The token that ends a document; default: found.")] = None,
    append_eod: Annotated[bool, typer.Option(help="End every document with that token.")] = True,
    parse_special_tokens: Annotated[
        bool, typer.Option(help="Take special tokens that are spelled out in the text for what they say.")
    ] = False,
) -> None:
    """Turn text into a Megatron data set of token ids, and a held-out one."""
    summary = prepare_data(
        PrepareRequest(
            inputs=tuple(_all(inputs, more_inputs)),
            tokenizer=tokenizer,
            output_prefix=output_prefix,
            held_out_fraction=held_out_fraction,
            documents=documents.value,
            json_key=json_key,
            eod_token=eod_token,
            append_eod=append_eod,
            parse_special_tokens=parse_special_tokens,
            workers=workers or available_cores(),
        )
    )
    for name, one in (("training", summary.training), ("held out", summary.held_out)):
        if one is not None:
            typer.echo(f"{name}: {_describe(one)}")
    typer.echo(f"about them: {summary.metadata}")


def _all(inputs: list[Path] | None, more: list[Path] | None) -> list[Path]:
    return [*(inputs or []), *(more or [])]


def _describe(one: SetSummary) -> str:
    return (
        f"{one.prefix}.bin: {one.documents:,} documents, {one.tokens:,} tokens, {one.bytes / 1e6:.1f} MB of text "
        f"({one.bytes_per_token:.2f} bytes per token)"
    )
