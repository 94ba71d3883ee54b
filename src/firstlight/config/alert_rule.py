"""The rules of alerts: comparisons of a run's figures, in a small grammar of our own.

    rule    = sum ("<" | "<=" | ">" | ">=") sum
    sum     = product { ("+" | "-") product }
    product = value { ("*" | "/") value }
    value   = number | name | "median" [ "(" name ")" ] | "-" value | "(" sum ")"

A name is one of metrics.jsonl, such as `loss` or `expert_load/max_vio`: a "/" with letters on both sides is part of it,
so a division has spaces. `median` alone is that of the rule's first name, over the records before the present one.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_]\w*(?:\.\w+)*(?:/[\w.-]*\w)*)|(?P<sign><=|>=|[-<>+*/()]))"
)
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
_OPERATIONS: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right if right else math.copysign(math.inf, left) if left else math.nan,
}
_MEDIAN = "median"

Median = Callable[[str], float | None]
"""The median of a figure over the records before; None while there are too few."""


class Expression(Protocol):
    """One side of a rule."""

    def value(self, figures: Mapping[str, float], median: Median) -> float | None:
        """None when a figure that it needs is not there."""

    def names(self) -> Iterator[str]:
        """The figures that it needs."""


@dataclass(frozen=True)
class _Number:
    number: float

    def value(self, _figures: Mapping[str, float], _median: Median) -> float | None:
        return self.number

    def names(self) -> Iterator[str]:
        return iter(())


@dataclass(frozen=True)
class _Figure:
    name: str

    def value(self, figures: Mapping[str, float], _median: Median) -> float | None:
        return figures.get(self.name)

    def names(self) -> Iterator[str]:
        yield self.name


@dataclass(frozen=True)
class _MedianOf:
    name: str

    def value(self, _figures: Mapping[str, float], median: Median) -> float | None:
        return median(self.name)

    def names(self) -> Iterator[str]:
        yield self.name


@dataclass(frozen=True)
class _Operation:
    sign: str
    left: Expression
    right: Expression

    def value(self, figures: Mapping[str, float], median: Median) -> float | None:
        left, right = self.left.value(figures, median), self.right.value(figures, median)
        return None if left is None or right is None else _OPERATIONS[self.sign](left, right)

    def names(self) -> Iterator[str]:
        yield from self.left.names()
        yield from self.right.names()


@dataclass(frozen=True, kw_only=True)
class AlertRule:
    """A comparison of two expressions."""

    left: Expression
    sign: str
    right: Expression

    def holds(self, figures: Mapping[str, float], median: Median) -> bool | None:
        """Whether the rule holds for the figures of a record; None when one that it needs is not there.

        What is not a number holds: a loss of NaN is no better than one above the limit.
        """
        left, right = self.left.value(figures, median), self.right.value(figures, median)
        if left is None or right is None:
            return None
        return math.isnan(left) or math.isnan(right) or _COMPARISONS[self.sign](left, right)

    def names(self) -> list[str]:
        """The figures that the rule is about, in order, each once."""
        return list(dict.fromkeys([*self.left.names(), *self.right.names()]))


def parse_alert_rule(text: str) -> AlertRule:
    """The rule that `text` spells. Raises ValueError, with the place, when it spells none."""
    return _Parser(text).rule()


class _Parser:
    """Recursive descent over the tokens of a rule."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0
        self._first_name = next((word for kind, word, _ in self._tokens if kind == "name" and word != _MEDIAN), None)

    def rule(self) -> AlertRule:
        left = self._sum()
        sign = self._take()
        if sign not in _COMPARISONS:
            raise self._error(f"expected one of {' '.join(_COMPARISONS)}", back=1)
        rule = AlertRule(left=left, sign=sign, right=self._sum())
        if self._at < len(self._tokens):
            raise self._error("expected the end")
        if not rule.names():
            raise ValueError(f"{self._text!r} compares numbers alone; name a figure of metrics.jsonl, such as loss")
        return rule

    def _sum(self) -> Expression:
        found = self._product()
        while self._peek() in ("+", "-"):
            found = _Operation(self._take(), found, self._product())
        return found

    def _product(self) -> Expression:
        found = self._value()
        while self._peek() in ("*", "/"):
            found = _Operation(self._take(), found, self._value())
        return found

    def _value(self) -> Expression:
        kind = self._tokens[self._at][0] if self._at < len(self._tokens) else ""
        word = self._take()
        if kind == "number":
            return _Number(float(word))
        if kind == "name":
            return self._median() if word == _MEDIAN else _Figure(word)
        if word == "-":
            return _Operation("-", _Number(0.0), self._value())
        if word == "(":
            inner = self._sum()
            self._close()
            return inner
        raise self._error("expected a number, a name or (", back=1)

    def _median(self) -> Expression:
        if self._peek() == "(":
            self._take()
            name = self._take()
            self._close()
            return _MedianOf(name)
        if self._first_name is None:
            raise self._error("median of what? name a figure", back=1)
        return _MedianOf(self._first_name)

    def _close(self) -> None:
        if self._take() != ")":
            raise self._error("expected )", back=1)

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        word = self._peek()
        self._at += 1
        return word

    def _error(self, what: str, *, back: int = 0) -> ValueError:
        at = self._at - back
        place = self._tokens[at][2] if at < len(self._tokens) else len(self._text)
        rest = self._text[place:]
        return ValueError(
            f"{self._text!r}: {what} at {rest!r}, character {place + 1}"
            if rest
            else f"{self._text!r}: {what} at the end; a rule is such as 'loss > 10' or 'mfu < 0.8 * median'"
        )


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, word and place of each token."""
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            rest = text[at:].strip()
            raise ValueError(f"{text!r}: {rest!r} is no part of a rule, character {text.index(rest, at) + 1}")
        yield match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
        at = match.end()
