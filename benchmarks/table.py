"""Tables of figures, each beside the one that it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table: `rate` is what is compared, more is better; None where it was not measured."""

    name: str
    rate: float | None
    text: str


def show(title: str, rows: Sequence[Row], reference: int | None = 0) -> None:
    """Print rows, each with its rate as a multiple of row number `reference`."""
    print(f"\n{title}")
    base = None if reference is None else rows[reference].rate
    for row in rows:
        ratio = f"{row.rate / base:8.2f} x" if row.rate and base else " " * 10
        print(f"  {row.name:<42} {row.text:<80} {ratio}")
