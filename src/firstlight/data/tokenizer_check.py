"""Whether a tokenizer that was made from another library's file gives that library's ids."""

import random
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from firstlight.base.errors import InputError

_ODD_TEXTS = (
    "",
    " ",
    "   ",
    "a",
    " a ",
    "a  b   c    d",
    "\n \t\r\n  \r\r\n\n x\n\n\n  y \t z\x0b\x0c",
    " " * 70 + "x" + "\n" * 30 + "y" + "=" * 90,
    "don't I'LL we'Re it'\u017f you'D 'tis x's 1234567 3.14 x_y(z); <|x|> </s> <unk> <0x41> [MASK]",
    "\0 \x01\x1c\x1f\x7f\x85\u00a0\u00ad\u1680\u180e\u2003\u200b\u200d\u2028\u202f\u2060\u3000\ufeff\ufffd\uffff end",
    "e\u0301 \u00e9 o\u0308\u0323 \u1e9b\u0323 \u212b \u212a \ufb01 \u2460 \u00bd \u33a2 \uff21\uff22\uff11 \u017f",
    "\U0001f469\u200d\U0001f4bb \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f44d\U0001f3fd \U00020000 \U0010fffd",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0 \u4e2d\u6587\uff0c\u6807\u70b9\u3002 \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0661\u0662\u0663 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a",
    "\u2581 \u2581\u2581a b\u2581c \u2581",
    "aaaaaaaaaaaaaaaaaaaaaaaaa AAAaaaAAAaaa ababababab 0000000000000 ,,,,,,;;;;;;;; ((((((()))))))",
    'def f(x: int) -> str:\n\treturn f"{x!r}"  # \u00e4\n\n\nclass A:\n    pass\r\n    # end\n',
    "https://example.org/a?b=c&d=%20#e user@example.org 2024-02-29T12:00:00Z -1e-5 \u20ac1,000.00 \u2014 \u201cx\u201d",
)
_TEXTS_AT_ONCE = 64
_MOST_ALONE = 20_000
_REPEATED = ("a", " ", "\n", "ab", "aab", "=", "X", "\u65e5", " a", "1", "-\n")
_LETTERS = " \n\t\raAzZ019.'-_/<>\u00e9\u0301\u00a0\u3000\u2581\u65e5\u0431\u05d0\u0661\U0001f469\u200d\u20ac\ufb01"
_NUM_RANDOM = 1500
_EVERY_CHARACTER = 61
"""Beside the first of each run of characters of one category, one in so many."""


def require_same_ids(
    path: Path,
    tokenizer: Tokenizer,
    original: Callable[[str], Sequence[int]],
    more: Iterable[str],
    library: str,
) -> None:
    """Raise InputError unless odd texts, and `more` ones, have the same ids from `tokenizer` and from `original`.

    Many of `more` are looked at together, and some by themselves, since there a word can be looked up as a whole.
    Special tokens that are spelled out are plain text to `original`, and are taken as that here.
    """
    tokenizer.encode_special_tokens = True
    pieces = list(more)
    joined = ["".join(pieces[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(pieces), _TEXTS_AT_ONCE)]
    spaced = [" ".join(pieces[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(pieces), _TEXTS_AT_ONCE)]
    alone = pieces[:: len(pieces) // _MOST_ALONE + 1]
    texts = [*_odd_texts(), *alone, *(f"x{piece}" for piece in alone), *joined, *spaced]
    for text, encoding in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        found, wanted = encoding.ids, list(original(text))
        if found != wanted:
            place = next((k for k, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), 0)
            raise InputError(
                f"{path} cannot be used: as a tokenizer of the `tokenizers` library it would not give the ids of "
                f"{library}, but {found[place : place + 3]} for {wanted[place : place + 3]} at token {place} of "
                f"{text[:40]!r}...; convert it to a tokenizer.json by other means"
            )
    tokenizer.encode_special_tokens = False


def _odd_texts() -> Iterator[str]:
    """Those above; runs, in which several ways to cut look equally good; characters of every kind; mixtures."""
    yield from _ODD_TEXTS
    for unit in _REPEATED:
        yield from (f"{unit * count}x" for count in (*range(2, 24), 100))
    yield from _characters()
    chance = random.Random(0)
    for _ in range(_NUM_RANDOM):
        yield "".join(chance.choices(_LETTERS, k=chance.randrange(1, 40)))


def _characters() -> Iterator[str]:
    """Characters that Unicode has assigned, among letters, digits and spaces."""
    before = ""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if category not in ("Cn", "Cs", "Co") and (category != before or code % _EVERY_CHARACTER == 0):
            yield f"a{character}b {character}{character}1{character} \n{character}"
        before = category
