"""The data sets of one corpus, for training and held out: written, counted, and gone on with."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.data.encoder import Ids
from firstlight.data.indexed_writer import IndexedWriter, WriterState
from firstlight.data.partial_file import PartialFile
from firstlight.data.rows import RowKind, RowState, RowWriter
from firstlight.data.set_builder import Edges, Piece, SetBuilder, SetSummary

SET_SUFFIXES = ("_text_document", "_heldout_text_document")
"""What follows the prefix in the names of the sets."""


@dataclass(frozen=True, kw_only=True)
class RowShape:
    """Rows of one length."""

    kind: RowKind
    length: int
    pad_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class SetFormat:
    """How sets are written. `rows` None: as documents."""

    dtype: np.dtype[Any]
    vocabulary_size: int
    edges: Edges
    rows: RowShape | None = None


@dataclass(frozen=True, kw_only=True)
class SetState:
    """One data set: the part of it that is on disk, and what was counted."""

    writer: WriterState
    rows: RowState | None
    summary: SetSummary


class SetFiles:
    """A context manager for the sets of these prefixes; with `states`, goes on where others gave them.

    `counts` int64 [vocabulary size]: the times that each id is in the sets, whole when they are finished.
    """

    def __init__(self, prefixes: Sequence[Path], format_: SetFormat, states: Sequence[SetState] = ()) -> None:
        self.counts: NDArray[np.int64] = np.zeros(format_.vocabulary_size, np.int64)
        self._prefixes = prefixes
        self._format = format_
        self._states: Sequence[SetState | None] = states or [None] * len(prefixes)
        self._stack = ExitStack()
        self._writers: list[IndexedWriter] = []
        self._rows: list[RowWriter | None] = []
        self._builders: list[SetBuilder] = []

    def __enter__(self) -> "SetFiles":
        with ExitStack() as stack:
            for prefix, state in zip(self._prefixes, self._states, strict=True):
                writer = IndexedWriter(
                    prefix, self._format.dtype, counts=self.counts, state=None if state is None else state.writer
                )
                stack.enter_context(writer)
                self._add_set(writer, state)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def summaries(self) -> list[SetSummary]:
        """What is in each set so far."""
        return [builder.summary for builder in self._builders]

    @property
    def num_tokens(self) -> int:
        """Tokens in all sets so far."""
        return sum(writer.num_tokens for writer in self._writers)

    @property
    def states(self) -> list[SetState]:
        """Where each set is, between two documents; not all of it need be on disk."""
        return [
            SetState(writer=writer.state, rows=None if rows is None else rows.state(), summary=replace(builder.summary))
            for writer, rows, builder in zip(self._writers, self._rows, self._builders, strict=True)
        ]

    def add(self, pieces: Sequence[Piece], ids: Sequence[Ids]) -> None:
        """Append pieces and their tokens, each to the set where it belongs."""
        for piece, tokens in zip(pieces, ids, strict=True):
            self._builders[piece.is_held_out].add(piece, tokens)
        for writer in self._writers:
            writer.write_held()

    def save(self) -> list[SetState]:
        """Put all on disk, between two documents, and give what is needed to go on from here."""
        for writer in self._writers:
            writer.save()
        return self.states

    def finish(self) -> list[PartialFile]:
        """Put all files on disk, and hand them over to be published in this order."""
        return [file for writer in self._writers for file in writer.finish()]

    def _add_set(self, writer: IndexedWriter, state: SetState | None) -> None:
        shape = self._format.rows
        rows = None if shape is None else RowWriter(writer, shape.kind, shape.length, shape.pad_id)
        builder = SetBuilder(rows or writer, self._format.edges)
        if state is not None:
            builder.summary = replace(state.summary, prefix=builder.summary.prefix)
        if rows is not None and state is not None and state.rows is not None:
            rows.restore(state.rows)
        self._writers.append(writer)
        self._rows.append(rows)
        self._builders.append(builder)
