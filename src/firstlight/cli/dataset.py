"""`firstlight data ...`: look at data sets, check them, join and split them. Never imports torch."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from tokenizers import Tokenizer

from firstlight.base.errors import InputError
from firstlight.data.indexed_facts import Facts, decoded, facts
from firstlight.data.indexed_facts import verify as verify_data
from firstlight.data.indexed_merge import merge as merge_data
from firstlight.data.indexed_split import cuts_of_counts, cuts_of_shares
from firstlight.data.indexed_split import split as split_data
from firstlight.data.indexed_stats import Stats
from firstlight.data.indexed_stats import stats as stats_of
from firstlight.data.metadata import has_file_marks
from firstlight.data.tokenizer import load_tokenizer, vocabulary_size

app = typer.Typer(no_args_is_help=True, help="Look at data sets, check them, join and split them.")

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
        checked += ", SHA-256 as prepared," if has_file_marks(prefix) else ""
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


@app.command()
def split(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="A path without .bin and .idx.")],
    output: Annotated[Path, typer.Option(help="Writes OUTPUT_0.bin and .idx, OUTPUT_1 ...", show_default=False)],
    shares: Annotated[
        str | None, typer.Option(help="Shares of the documents, such as 0.9,0.1 or 8,1,1.", show_default=False)
    ] = None,
    parts: Annotated[
        int | None, typer.Option(min=1, help="So many parts of as many documents.", show_default=False)
    ] = None,
    documents: Annotated[
        str | None,
        typer.Option(help="Numbers of documents, such as 1000,2000; the rest is a last part.", show_default=False),
    ] = None,
) -> None:
    """Cut a data set into several, of whole documents in their order; `merge` joins them again, byte for byte."""
    if [shares, parts, documents].count(None) != 2:
        raise InputError("data split needs one of --shares, --parts and --documents")
    num_documents = facts(prefix).num_documents
    if documents is not None:
        cuts = cuts_of_counts(num_documents, [int(number) for number in _numbers("--documents", documents)])
    else:
        cuts = cuts_of_shares(num_documents, [1.0] * parts if parts else _numbers("--shares", shares or ""))
    for written in split_data(prefix, output, cuts):
        numbers = facts(written)
        typer.echo(f"{written}.bin: {numbers.num_documents:,} documents, {numbers.num_tokens:,} tokens")


@app.command()
def stats(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="A path without .bin and .idx.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Show ids as its text too.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count a whole data set: lengths of documents, ids, ends of documents."""
    names = None if tokenizer is None else load_tokenizer(tokenizer)
    numbers = stats_of(prefix)
    if as_json:
        texts = {} if names is None else {"texts": {str(k): _text(names, k) for k in _shown_ids(numbers)}}
        typer.echo(json.dumps(asdict(numbers) | texts, ensure_ascii=False))
        return
    for line in _stat_lines(numbers, names):
        typer.echo(line)


def _numbers(flag: str, text: str) -> list[float]:
    try:
        kind = int if flag == "--documents" else float
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"{flag} {text} is not made of numbers with commas between, such as 8,1,1") from None


def _shown_ids(numbers: Stats) -> list[int]:
    shown = [number for number, _ in (numbers.ids.most_frequent or [] if numbers.ids else [])]
    return shown if numbers.last_id is None else sorted({*shown, numbers.last_id[0]})


def _text(tokenizer: Tokenizer, number: int) -> str | None:
    """None for an id that the tokenizer does not have."""
    token = tokenizer.id_to_token(number)
    return None if token is None else tokenizer.decode([number], skip_special_tokens=False)


def _stat_lines(numbers: Stats, names: Tokenizer | None) -> list[str]:
    def named(number: int) -> str:
        return str(number) if names is None else f"{number} {_text(names, number)!r}"

    lines = [
        f"documents: {numbers.num_documents:,}, of which {numbers.num_empty_documents:,} empty",
        f"sequences: {numbers.num_sequences:,}",
        f"tokens: {numbers.num_tokens:,}",
    ]
    if numbers.lengths is not None:
        one = numbers.lengths
        lines.append(
            f"tokens of a document: {one.minimum:,} to {one.maximum:,}, median {one.median:,}, mean {one.mean:,.1f}, "
            f"95 % have at most {one.percentile_95:,}"
        )
        lines += [f"  {low:,} to {high:,}: {count:,} documents" for low, high, count in one.histogram]
    if numbers.ids is not None:
        distinct = "" if numbers.ids.distinct is None else f", {numbers.ids.distinct:,} different ones"
        lines.append(f"ids: {numbers.ids.smallest} to {numbers.ids.largest}{distinct}")
        for number, count in numbers.ids.most_frequent or []:
            lines.append(f"  {named(number)}: {count:,} times, {count / numbers.num_tokens:.2%}")
    if numbers.last_id is not None:
        number, share = numbers.last_id
        lines.append(f"most frequent end of a document: {named(number)}, {share:.2%} of those with a token there")
    return lines


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
