"""Rows are the tokens of sequences laid end to end, gathered the same in both ways."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.base.errors import InputError
from firstlight.data import native
from firstlight.data.gather import Laid
from firstlight.data.indexed import HEADER, MAGIC, IndexedDataset, bin_path, idx_path
from firstlight.data.samples import Samples
from tests.unit.data.numbered import write


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    dtype=st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "int64"]),
    width=st.integers(1, 20),
    seed=st.integers(0, 99),
    as_range=st.booleans(),
    is_compiled=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_rows_are_sequences_laid_end_to_end(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    dtype: str,
    width: int,
    seed: int,
    as_range: bool,
    is_compiled: bool,
) -> None:
    indexed = write(tmp_path_factory.mktemp("set") / "set", lengths, dtype)
    random = np.random.default_rng(seed)
    first, stop = sorted(random.integers(0, len(lengths) + 1, 2).tolist())
    ids = range(first, stop) if as_range else random.integers(0, len(lengths), 9).astype(["<i4", "<i8"][seed % 2])
    parts = [indexed.tokens(int(k)).tolist() for k in ids]
    position = int(random.integers(0, len(parts) + 1))
    offset = int(random.integers(0, len(parts[position]) + 1)) if position < len(parts) else 0
    wanted = int(random.integers(1, width + 1))
    tokens: list[int] = []
    begins: set[int] = {0}
    for number, part in enumerate(parts[position:]):
        rest = part[offset:] if number == 0 else part
        if rest and len(tokens) < wanted:
            begins.add(len(tokens))
        tokens += rest
    out = Samples.empty(3, width - 1)
    out.tokens[:], out.begins[:] = 77, True
    with pytest.MonkeyPatch.context() as patch:
        if not is_compiled:
            patch.setattr(native, "GATHER", None)
        Laid(indexed=indexed, order=ids).gather(np.array([[position, offset]]), out, np.array([1]), wanted)
    real = tokens[:wanted]
    assert out.num_real[1] == len(real)
    assert out.tokens[1].tolist() == real + [0] * (width - len(real))
    assert np.flatnonzero(out.begins[1]).tolist() == sorted(begins)
    assert (out.tokens[[0, 2]] == 77).all()
    assert out.begins[[0, 2]].all()


@pytest.mark.parametrize("is_compiled", [True, False])
def test_an_id_beyond_32_bits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_compiled: bool) -> None:
    indexed = write(tmp_path / "set", [3], "int64", first=2**31 - 2)
    if not is_compiled:
        monkeypatch.setattr(native, "GATHER", None)
    with pytest.raises(InputError, match="the token id 2147483648 does not fit 32 bits"):
        Laid(indexed=indexed, order=range(1)).gather(np.array([[0, 0]]), Samples.empty(1, 3), np.array([0]))


def test_a_file_that_changed_after_it_was_opened_is_no_crash(tmp_path: Path) -> None:
    """The map of the .idx shows what was written into it later; places outside of the file are refused."""
    if native.GATHER is None:
        pytest.skip("the extension is not built")
    write(tmp_path / "set", [3, 4])
    indexed = IndexedDataset.open(tmp_path / "set")
    with idx_path(tmp_path / "set").open("r+b") as file:
        file.seek(HEADER.size)
        file.write(struct.pack("<2i2q", 3, 2**31 - 1, 0, 2**62))
    laid = Laid(indexed=indexed, order=range(2))
    with pytest.raises(InputError, match="sequence 1 lies outside of the file"):
        laid.gather(np.array([[0, 0]]), Samples.empty(1, 8), np.array([0]))
    assert idx_path(tmp_path / "set").read_bytes()[: len(MAGIC)] == MAGIC
    assert bin_path(tmp_path / "set").stat().st_size == 28
