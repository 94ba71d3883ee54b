"""MindSpore's own reader and writer of MindRecord, against ours."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from firstlight.data.mindrecord_header import Column
from firstlight.data.mindrecord_reader import MindRecordReader
from firstlight.data.mindrecord_writer import MindRecordWriter
from tests.parity.other_python import interpreter, run

pytestmark = pytest.mark.interop

READ = """
import sys
import mindspore.dataset as ds
import numpy as np
path, out = sys.argv[1:]
rows = {"all": ds.MindDataset(path, shuffle=False)}
rows["mixed"] = ds.MindDataset(path, shuffle=True)
for k in (0, 1):
    rows[f"half{k}"] = ds.MindDataset(path, shuffle=False, num_shards=2, shard_id=k)
np.savez(out, **{
    name: np.stack([row["input_ids"] for row in one.create_dict_iterator(num_epochs=1, output_numpy=True)])
    for name, one in rows.items()
})
"""

WRITE = """
import sys
import numpy as np
from mindspore.mindrecord import FileWriter
path, rows, num_files = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
writer = FileWriter(path, shard_num=num_files, overwrite=True)
writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}, "id": {"type": "int64"}}, "rows")
writer.add_index(["id"])
writer.write_raw_data([{"input_ids": row, "id": k} for k, row in enumerate(rows)])
writer.commit()
"""


@pytest.fixture(scope="module")
def python() -> str:
    return interpreter("FIRSTLIGHT_MINDSPORE_PYTHON", "mindspore")


def rows() -> NDArray[np.int32]:
    return np.random.default_rng(0).integers(0, 150000, (300, 129), np.int32)


def as_set(found: NDArray[np.int32]) -> list[tuple[int, ...]]:
    return sorted(map(tuple, found.tolist()))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_mindspore_reads_ours(python: str, num_shards: int, tmp_path: Path) -> None:
    path = tmp_path / "ours"
    schema = {"input_ids": Column(type="int32", shape=(-1,))}
    with MindRecordWriter(path, schema, num_shards=num_shards, page_size=32 << 10, header_size=16 << 10) as writer:
        for row in rows():
            writer.add({"input_ids": row})
    run(python, READ, path if num_shards == 1 else tmp_path / "ours0", tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_array_equal(found["all"], np.concatenate([rows()[k::num_shards] for k in range(num_shards)]))
        assert as_set(found["mixed"]) == as_set(rows())
        assert as_set(np.concatenate([found["half0"], found["half1"]])) == as_set(rows())


@pytest.mark.parametrize("num_files", [1, 4])
def test_we_read_mindspores(python: str, num_files: int, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows())
    run(python, WRITE, tmp_path / "theirs", tmp_path / "rows.npy", str(num_files))
    with MindRecordReader.open(tmp_path / "theirs") as reader:
        found = {row["id"]: row["input_ids"] for row in reader}
    assert sorted(found) == list(range(300))
    np.testing.assert_array_equal(np.stack([found[k] for k in range(300)]), rows())
