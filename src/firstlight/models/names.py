"""Name tables: our tensor names beside another tool's, as rows with placeholders; iterated both ways.

A row says which tensors of ours and theirs hold the same numbers, and how they are laid out:

| layout | theirs |
| --- | --- |
| `same` | ours as it is |
| `per_expert` | one tensor for each index of our first dimension |
| `joined` | ours one after another along the first dimension |
| `grouped` | ours cut in `groups` along the first dimension; the first group of each, then the second of each |
| `interleaved_rows` | ours in turn along the first dimension: a row of the first, a row of the second |
| `transposed` | ours with its last two dimensions swapped |
| `interleaved` | ours in turn along the last dimension: first of the first, first of the second, second of the first |
| `interleaved_transposed` | ours transposed, then interleaved |
| `transposed_joined` | ours transposed, then one after another along the last dimension |
| `flat_transposed` | ours transposed, then the first two dimensions as one |
| `flat_transposed_joined` | as `transposed_joined`, then the first two dimensions as one |
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from firstlight.base.errors import FirstlightError

TensorLayout = Literal[
    "same",
    "per_expert",
    "joined",
    "grouped",
    "interleaved_rows",
    "transposed",
    "interleaved",
    "interleaved_transposed",
    "transposed_joined",
    "flat_transposed",
    "flat_transposed_joined",
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Patterns of names: several of ours make one of theirs, or one of ours several of theirs.

    `{layer}` and `{depth}` stand for numbers; theirs may also use `{mtp_layer}`, and `{expert}` where the layout is
    `per_expert`.
    """

    ours: tuple[str, ...]
    theirs: str
    layout: TensorLayout = "same"
    groups: int = 1

    def under(self, ours: str, theirs: str) -> "Row":
        """The row with prefixes before its names."""
        return replace(self, ours=tuple(ours + name for name in self.ours), theirs=theirs + self.theirs)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row with its numbers filled in: `ours` and `theirs` hold the same values, as `layout` and `groups` say."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: TensorLayout
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class NameTable:
    """The rows of a family for one configuration.

    `copies` are tensors that the other tool stores a second time: their name, and ours.
    """

    rows: Sequence[Row]
    num_hidden_layers: int
    num_experts: int = 0
    copies: Mapping[str, str] = field(default_factory=dict)

    def entries(self, names: Iterable[str]) -> Iterator[Entry]:
        """The entries that hold the tensors `names` of ours, each entry once, in the order of the names."""
        seen: set[str] = set()
        for name in names:
            if name not in seen:
                entry = self.entry(name)
                seen.update(entry.ours)
                yield entry

    def entry(self, ours: str) -> Entry:
        """The entry that holds our tensor `ours`. Raises FirstlightError unless exactly one row has it."""
        found = [(match, row) for pattern, row in self._patterns if (match := pattern.fullmatch(ours))]
        if len(found) != 1:
            raise FirstlightError(f"tensor {ours} matches {len(found)} rows of the name table; exactly one must match")
        match, row = found[0]
        numbers = {key: int(value) for key, value in match.groupdict().items()}
        if "depth" in numbers:
            numbers["mtp_layer"] = self.num_hidden_layers + numbers["depth"]
        theirs: tuple[str, ...] = (row.theirs,)
        if row.layout == "per_expert":
            theirs = tuple(row.theirs.replace("{expert}", str(expert)) for expert in range(self.num_experts))
        return Entry(
            ours=tuple(name.format(**numbers) for name in row.ours),
            theirs=tuple(name.format(**numbers) for name in theirs),
            layout=row.layout,
            groups=row.groups,
        )

    def theirs(self, ours: str) -> list[str]:
        """The other tool's name, or for stacked experts its names in expert order."""
        return list(self.entry(ours).theirs)

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], Row]]:
        return [(_pattern(ours), row) for row in self.rows for ours in row.ours]


def same(ours: str, theirs: str) -> Row:
    """A row of two names for one tensor."""
    return Row(ours=(ours,), theirs=theirs)


def block_rows(rows: Iterable[Row], ours: str, theirs: str) -> Iterator[Row]:
    """The rows of one decoder layer under the two prefixes."""
    return (row.under(ours, theirs) for row in rows)


def _pattern(ours: str) -> re.Pattern[str]:
    escaped = re.escape(ours)
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", escaped))
