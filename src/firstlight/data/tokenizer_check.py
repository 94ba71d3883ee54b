"""Whether a tokenizer that was made from another library's file gives that library's ids."""

from collections.abc import Callable, Iterable, Sequence
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


def require_same_ids(
    path: Path,
    tokenizer: Tokenizer,
    original: Callable[[str], Sequence[int]],
    more: Iterable[str],
    library: str,
) -> None:
    """Raise InputError unless odd texts, and `more` ones, have the same ids from `tokenizer` and from `original`.

    Special tokens that are spelled out are plain text to `original`, and are taken as that here.
    """
    tokenizer.encode_special_tokens = True
    pieces = list(more)
    joined = ["".join(pieces[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(pieces), _TEXTS_AT_ONCE)]
    spaced = [" ".join(pieces[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(pieces), _TEXTS_AT_ONCE)]
    for text in (*_ODD_TEXTS, *joined, *spaced):
        found, wanted = tokenizer.encode(text, add_special_tokens=False).ids, list(original(text))
        if found != wanted:
            place = next((k for k, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), 0)
            raise InputError(
                f"{path} cannot be used: as a tokenizer of the `tokenizers` library it would not give the ids of "
                f"{library}, but {found[place : place + 3]} for {wanted[place : place + 3]} at token {place} of "
                f"{text[:40]!r}...; convert it to a tokenizer.json by other means"
            )
    tokenizer.encode_special_tokens = False
