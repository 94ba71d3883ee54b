"""WikiText's layout: articles under ` = Title = `, and the cleaning of MindFormers' wikitext_to_bin.py."""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

_Line = TypeVar("_Line", bound=tuple[int, str, object])
_TITLE = re.compile(r"\s*= [^=\s].* =\s*")
_PLAIN_BEFORE_PAIRS = (
    ("s '", "s'"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    (" : ", ": "),
    (" ; ", "; "),
    (" . ", ". "),
    (" ! ", "! "),
    (" ? ", "? "),
    (" , ", ", "),
)
_PAIRS = (
    (re.compile(r"\(\s*([^\)]*?)\s*\)"), r"(\1)"),
    (re.compile(r"\[\s*([^\]]*?)\s*\]"), r"[\1]"),
    (re.compile(r"{\s*([^}]*?)\s*}"), r"{\1}"),
    (re.compile(r"\"\s*([^\"]*?)\s*\""), r'"\1"'),
    (re.compile(r"'\s*([^']*?)\s*'"), r"'\1'"),
)
_PLAIN_AFTER_PAIRS = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def articles(lines: Iterable[_Line]) -> Iterator[Iterator[_Line]]:
    """The lines (number, text, ...) of each article, its title first; each is read before the next is asked for.

    A title stands between blank lines: WikiText-2's body text has lines that look like titles. What comes before the
    first title is an article too, unless it is blank.
    """
    for number, group in itertools.groupby(_numbered(lines), key=lambda pair: pair[0]):
        article: Iterator[_Line] = (line for _, line in group)
        if number == 0:
            article = itertools.dropwhile(lambda line: not line[1].strip(), article)
            first = next(article, None)
            if first is None:
                continue
            article = itertools.chain([first], article)
        yield article


def detokenize(text: str) -> str:
    """Ordinary spelling for WikiText's spaced one, rule by rule as MindFormers has it. Quotes pair across lines, so
    the whole file has to be given."""
    for old, new in _PLAIN_BEFORE_PAIRS:
        text = text.replace(old, new)
    for pattern, replacement in _PAIRS:
        text = pattern.sub(replacement, text)
    for old, new in _PLAIN_AFTER_PAIRS:
        text = text.replace(old, new)
    return text


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a detokenized file: between blank lines, without headings."""
    for paragraph in text.split("\n\n"):
        stripped = paragraph.strip()
        if stripped and not stripped.startswith("="):
            yield paragraph


def _numbered(lines: Iterable[_Line]) -> Iterator[tuple[int, _Line]]:
    """Each line with the number of titles up to it."""
    number = 0
    is_after_blank = True
    for line, following in itertools.pairwise(itertools.chain(lines, [None])):
        assert line is not None
        is_before_blank = following is None or not following[1].strip()
        number += bool(is_after_blank and is_before_blank and _TITLE.fullmatch(line[1]))
        is_after_blank = not line[1].strip()
        yield number, line
