"""`firstlight data ...`: look at data sets, check them, join them. Never imports torch."""

from pathlib import Path
from typing import Annotated

import typer

from firstlight.data.indexed_facts import Facts, decoded, facts
from firstlight.data.indexed_facts import verify as verify_data
from firstlight.data.indexed_merge import merge as merge_data
from firstlight.data.tokenizer import load_tokenizer, vocabulary_size

app = typer.Typer(no_args_is_help=True, help="Look at data sets, check them, join them.")

Prefixes = Annotated[list[Path], typer.Argument(metavar="PREFIX...", help="Paths without .bin and .idx.")]


@app.command()
def inspect(prefixes: Prefixes) -> None:
    """Print what data sets hold."""
    for prefix in prefixes:
        typer.echo(f"{prefix}:")
        for line in _lines(facts(prefix)):
            typer.echo(f"  {line}")


@app.command()
def verify(
    prefixes: Prefixes,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Check every id against this tokenizer too.", show_default=False)
    ] = None,
) -> None:
    """Check that data sets are whole; the first fault ends it with exit code 2."""
    size = None if tokenizer is None else vocabulary_size(load_tokenizer(tokenizer))
    for prefix in prefixes:
        numbers = verify_data(prefix, size)
        checked = "structure" if size is None else "structure and ids"
        typer.echo(f"{prefix}: {checked} sound, {numbers.num_documents:,} documents, {numbers.num_tokens:,} tokens")


@app.command()
def decode(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="A path without .bin and .idx.")],
    tokenizer: Annotated[Path, typer.Option(help="A tokenizer file, or a folder with one.", show_default=False)],
    document: Annotated[int, typer.Option(min=0, help="Its number, from 0.")] = 0,
) -> None:
    """Print the text of a document; an empty line stands between its sequences."""
    typer.echo("\n\n".join(decoded(prefix, document, load_tokenizer(tokenizer))))


@app.command()
def merge(
    prefixes: Prefixes,
    output: Annotated[Path, typer.Option(help="Writes OUTPUT.bin and OUTPUT.idx.", show_default=False)],
) -> None:
    """Join data sets, one after the other, in memory that does not grow with them."""
    merge_data(prefixes, output)
    numbers = facts(output)
    typer.echo(f"{output}.bin: {numbers.num_documents:,} documents, {numbers.num_tokens:,} tokens")


def _lines(numbers: Facts) -> list[str]:
    lengths = "" if numbers.shortest is None else f" of {numbers.shortest:,} to {numbers.longest:,} tokens"
    lines = [
        f"documents: {numbers.num_documents:,}, of which {numbers.num_empty_documents:,} empty",
        f"sequences: {numbers.num_sequences:,}{lengths}",
        f"tokens: {numbers.num_tokens:,}, stored as {numbers.dtype}",
        f"files: .bin {numbers.bin_bytes:,} bytes, .idx {numbers.idx_bytes:,} bytes",
    ]
    if numbers.bytes_per_token is not None:
        lines.append(f"text: {numbers.bytes_per_token:.3f} bytes per token")
    if not numbers.is_back_to_back:
        lines.append("layout: the .bin has gaps, or sequences that share tokens")
    if numbers.has_modes:
        lines.append("modes: one for each sequence (multimodal)")
    return lines
