"""Name tables: our tensor names beside another tool's, as data with placeholders."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from firstlight.base.errors import FirstlightError


@dataclass(frozen=True, kw_only=True)
class NameTable:
    """Rows (ours, theirs). `{layer}` and `{depth}` stand for numbers; theirs may also use `{mtp_layer}`.

    A name of theirs with `{expert}` holds one slice of our stacked tensor: expert e is index e of its first dimension.
    `copies` are tensors that the other tool stores a second time: their name, and ours.
    """

    rows: Sequence[tuple[str, str]]
    num_hidden_layers: int
    num_experts: int = 0
    copies: Mapping[str, str] = field(default_factory=dict)

    def theirs(self, ours: str) -> list[str]:
        """The other tool's name, or for stacked experts its names in expert order. One row must match."""
        found = [(match, theirs) for pattern, theirs in self._patterns if (match := pattern.fullmatch(ours))]
        if len(found) != 1:
            raise FirstlightError(f"tensor {ours} matches {len(found)} rows of the name table; exactly one must match")
        match, theirs = found[0]
        numbers = {key: int(value) for key, value in match.groupdict().items()}
        if "depth" in numbers:
            numbers["mtp_layer"] = self.num_hidden_layers + numbers["depth"]
        if "{expert}" not in theirs:
            return [theirs.format(**numbers)]
        return [theirs.format(expert=expert, **numbers) for expert in range(self.num_experts)]

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(ours), theirs) for ours, theirs in self.rows]


def block_rows(rows: Sequence[tuple[str, str]], ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """The rows of one decoder layer under the two prefixes."""
    return ((ours + row_ours, theirs + row_theirs) for row_ours, row_theirs in rows)


def _pattern(ours: str) -> re.Pattern[str]:
    escaped = re.escape(ours)
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", escaped))
