"""What MindFormers' `wikitext_to_bin.py` is given."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from firstlight.base.errors import InputError

BEGIN = "<｜begin▁of▁sentence｜>"
"""What begins every paragraph there: the name is written into the script."""

END = "<｜end▁of▁sentence｜>"

_TOKENIZERS = ("LlamaTokenizer", "Llama3Tokenizer", "LlamaTokenizerFast")


@dataclass(frozen=True, kw_only=True)
class WikitextRequest:
    """WikiText into rows of `sequence_length` + 1 tokens."""

    text: Path
    tokenizer: Path
    output_prefix: Path
    sequence_length: int
    rows: Literal["stitch", "pad"]
    appends_end: bool
    workers: int


def read_wikitext_arguments(words: Sequence[str]) -> WikitextRequest:
    """Read the words after `wikitext_to_bin.py`. Raises InputError, also for what that script cannot do either."""
    given = _parser().parse_args(list(words))
    if given.split_sentences:
        raise InputError("--split-sentences: paragraphs are not split, in MindFormers neither; leave it out")
    tokenizer = given.vocab_file or given.tokenizer_file
    if tokenizer is None:
        raise InputError("wikitext_to_bin.py needs --vocab-file with a tokenizer.json or tokenizer.model")
    return WikitextRequest(
        text=Path(given.input),
        tokenizer=Path(tokenizer),
        output_prefix=Path(given.output_prefix),
        sequence_length=given.seq_length,
        rows=given.pad_or_stitch,
        appends_end=given.append_eod,
        workers=given.workers,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"wikitext_to_bin.py: {message}")


def _parser() -> _Parser:
    parser = _Parser(prog="wikitext_to_bin.py", description="WikiText into a Megatron data set of rows of one length.")
    parser.add_argument("--input", required=True, help="the WikiText file")
    parser.add_argument("--output-prefix", required=True, help="writes PREFIX_text_document.bin and .idx")
    parser.add_argument("--vocab-file", help="tokenizer.json or tokenizer.model")
    parser.add_argument("--tokenizer-file", help="the same")
    parser.add_argument("--seq-length", type=_count, default=4096, help="rows have one token more")
    parser.add_argument("--pad-or-stitch", choices=("stitch", "pad"), default="stitch")
    parser.add_argument("--append-eod", action="store_true", help="end paragraphs with the end of a document")
    parser.add_argument("--workers", type=_count, required=True, help="threads that encode")
    parser.add_argument("--tokenizer-type", choices=_TOKENIZERS, help="not needed: the file says it")
    parser.add_argument("--split-sentences", action="store_true", help=argparse.SUPPRESS)
    for flag in ("--json-keys", "--merges-file", "--vocab-size", "--lang", "--partitions", "--log-interval"):
        parser.add_argument(flag, nargs="+", help="has no effect")
    for flag in ("--add-bos-token", "--add-eos-token"):
        parser.add_argument(flag, nargs="?", help="has no effect, in MindFormers neither")
    for flag in ("--keep-newlines", "--keep-sequential-samples"):
        parser.add_argument(flag, action="store_true", help="has no effect")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
