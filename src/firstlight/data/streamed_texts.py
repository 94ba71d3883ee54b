"""Documents from `datasets`' streams, epoch after epoch, from any place on: the stream is split into its shards, and
of each shard the state that `datasets` gives after a batch of rows says where to go on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from firstlight.base.errors import InputError
from firstlight.data.permutation import Permutation

_BATCH_ROWS = 256
_KEYS_OF_BLOCKS = 1 << 16
"""Keys below this are for shards, so that each block of a source has a key that no source's shards have."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A document: number `within` of block `block` of an epoch, whose first document is row `row` of a shard.

    `shard` counts the shards in the order of the epoch; `state` is what `datasets` says at the start of a batch of
    rows, `skip` of which come before the block. All are plain values.
    """

    epoch: int = 0
    shard: int = 0
    state: Mapping[str, Any] | None = None
    skip: int = 0
    row: int = 0
    block: int = 0
    within: int = 0

    def to_plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Place":
        """What `to_plain` gave. Raises InputError when it did not."""
        names = set(cls.__dataclass_fields__)
        counts = [plain.get(name) for name in sorted(names - {"state"})]
        is_whole = all(type(count) is int and count >= 0 for count in counts)
        if plain.keys() != names or not is_whole or not isinstance(plain["state"], Mapping | None):
            raise InputError(f"the saved position of a stream of text is not one: {json.dumps(dict(plain))[:200]}")
        return cls(**plain)


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Documents change places within blocks of `size`, shards among each other; anew in each epoch."""

    size: int
    seed: int
    source: int


_Row = tuple[Place, object]


class StreamedTexts:
    """The values in one column of `stream`, a `datasets.IterableDataset`, without end."""

    def __init__(self, stream: Any, *, name: str, column: str, shuffle: Shuffle | None = None) -> None:
        """`name` is what messages call it. Raises InputError when it is known not to have the column."""
        self.name = name
        self._stream = stream
        self._column = column
        self._shuffle = shuffle
        if stream.column_names is not None and column not in stream.column_names:
            self._refuse_column(stream.column_names)

    def read(self, place: Place) -> Iterator[tuple[Place, object]]:
        """The documents from `place` on, each with its own place. Raises InputError when they cannot be read."""
        size = self._shuffle.size if self._shuffle else _BATCH_ROWS
        while True:
            rows = self._rows_of_epoch(place)
            block, within = place.block, place.within
            while documents := list(islice(rows, size)):
                order = self._order(place.epoch, block, len(documents))
                first = documents[0][0]
                for number in range(within, len(documents)):
                    here = Place(**{**vars(first), "block": block, "within": number})
                    yield here, documents[order[number]][1]
                block, within = block + 1, 0
            if block == 0:
                raise InputError(f"{self.name} holds no documents; name files that have some")
            place = Place(epoch=place.epoch + 1)

    def _rows_of_epoch(self, start: Place) -> Iterator[_Row]:
        num_shards = self._stream.num_shards
        yield from self._rows_of_shard(start)
        for shard in range(start.shard + 1, num_shards):
            yield from self._rows_of_shard(Place(epoch=start.epoch, shard=shard))

    def _rows_of_shard(self, start: Place) -> Iterator[_Row]:
        """From `start` on, each row with the place of a block that would begin there."""
        num_shards = self._stream.num_shards
        if start.shard >= num_shards:
            raise InputError(f"{self.name} has {num_shards} shards, but the saved position is in shard {start.shard}")
        number = self._permutation(num_shards, start.epoch, 0)(start.shard) if self._shuffle else start.shard
        part = self._stream.shard(num_shards=num_shards, index=number)
        if start.state is not None:
            part.load_state_dict(dict(start.state))
        batches = iter(part.iter(batch_size=_BATCH_ROWS))
        state, skip, row = start.state, start.skip, start.row - start.skip
        while (values := self._next(batches, number, row)) is not None:
            for index in range(skip, len(values)):
                yield (
                    Place(epoch=start.epoch, shard=start.shard, state=state, skip=index, row=row + index),
                    values[index],
                )
            state, skip, row = part.state_dict(), 0, row + len(values)

    def _next(self, batches: Iterator[Any], shard: int, row: int) -> list[object] | None:
        """The values of the next batch of rows, None after the last one."""
        try:
            batch = next(batches, None)
        except (OSError, ValueError, TypeError, LookupError, NotImplementedError) as error:
            # Whatever pyarrow, fsspec and `datasets` raise about bytes that are not what they should be.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self.name}: shard {shard} cannot be read after its row {row}: {reason}") from None
        if batch is None:
            return None
        if self._column not in batch:
            self._refuse_column(list(batch))
        values: list[object] = batch[self._column]
        return values

    def _order(self, epoch: int, block: int, size: int) -> list[int]:
        """Which document of a block comes first, second ..."""
        if self._shuffle is None:
            return list(range(size))
        order: list[int] = self._permutation(size, epoch, block + 1).many(np.arange(size)).tolist()
        return order

    def _permutation(self, size: int, epoch: int, block: int) -> Permutation:
        """Of the shards, `block` being 0, or of the documents of block `block` - 1."""
        assert self._shuffle is not None
        source = self._shuffle.source + block * _KEYS_OF_BLOCKS
        return Permutation(size, seed=self._shuffle.seed, epoch=epoch, source=source)

    def _refuse_column(self, found: list[str]) -> None:
        names = ", ".join(map(repr, found))
        raise InputError(f'{self.name} has no column "{self._column}" but {names}; name one with text_key')
