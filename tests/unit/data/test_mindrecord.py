"""MindRecord sets that we write and read: round trips, page boundaries, and what is refused."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.base.errors import InputError
from firstlight.config.timeline import Timeline
from firstlight.data.mindrecord_dataset import MindRecordDataset
from firstlight.data.mindrecord_header import Column, read_header
from firstlight.data.mindrecord_reader import MindRecordReader
from firstlight.data.mindrecord_writer import MindRecordWriter, shard_paths
from firstlight.data.samples import read_samples
from firstlight.data.stream import TokenStream
from tests.unit.data.numbered import sample

SMALL = {"page_size": 32 << 10, "header_size": 16 << 10}
TOKENS = {"input_ids": Column(type="int32", shape=(-1,))}
EVERY = {
    "id": Column(type="int64"),
    "small": Column(type="int32"),
    "name": Column(type="string"),
    "score": Column(type="float64"),
    "half": Column(type="float32"),
    "content": Column(type="bytes"),
    "f32": Column(type="float32", shape=(-1,)),
    "f64": Column(type="float64", shape=(2, -1)),
    "i32": Column(type="int32", shape=(3,)),
    "i64": Column(type="int64", shape=(-1, 2)),
}


def every_row(k: int) -> dict[str, Any]:
    return {
        "id": (k - 5) * 10**15,
        "small": -k,
        "name": "é東🙂\0" * k,
        "score": k / 7,
        "half": k / 8,
        "content": bytes(range(k % 200)),
        "f32": np.arange(k, dtype=np.float32) / 3,
        "f64": np.full((2, k % 4), np.nan if k % 2 else k / 9),
        "i32": np.array([k, -(2**31), 2**31 - 1], np.int32),
        "i64": np.full((k % 5, 2), (-1) ** k * 2 ** (k % 63)),
    }


def same(found: dict[str, Any], row: dict[str, Any], schema: dict[str, Column]) -> bool:
    for name, value in row.items():
        shape = schema[name].shape
        if shape is None:
            if found[name] != value or type(found[name]) is not type(value):
                return False
        elif found[name].dtype != schema[name].type or not np.array_equal(
            found[name], value, equal_nan=shape == (2, -1)
        ):
            return False
    return found.keys() == row.keys()


def write(path: Path, schema: dict[str, Column], rows: list[dict[str, Any]], **options: Any) -> None:
    with MindRecordWriter(path, schema, **{**SMALL, **options}) as writer:
        for row in rows:
            writer.add(row)


@pytest.mark.parametrize("num_shards", [1, 3, 12])
def test_all_types_come_back(tmp_path, num_shards):
    rows = [every_row(k) for k in range(250)]
    path = tmp_path / "set.mindrecord"
    write(path, EVERY, rows, num_shards=num_shards, index_fields=["id", "name", "score"])
    order = [k for shard in range(num_shards) for k in range(shard, len(rows), num_shards)]
    for name in (path, shard_paths(path, num_shards)[-1]):
        with MindRecordReader.open(name) as reader:
            assert len(reader) == len(rows)
            assert dict(reader.schema) == EVERY
            assert all(same(found, rows[k], EVERY) for found, k in zip(reader, order, strict=True))
            assert same(reader.row(249), rows[order[249]], EVERY)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".partial") == []


def test_names_of_shards():
    assert [path.name for path in shard_paths(Path("x"), 1)] == ["x"]
    assert [path.name for path in shard_paths(Path("x"), 3)] == ["x0", "x1", "x2"]
    assert [path.name for path in shard_paths(Path("x"), 12)][::11] == ["x00", "x11"]


@pytest.mark.parametrize("schema", [{"text": Column(type="string")}, {"content": Column(type="bytes")}])
def test_sets_of_one_kind_of_column(tmp_path, schema):
    (name,) = schema
    values = [str(k) * k if name == "text" else bytes(k) for k in range(300)]
    write(tmp_path / "x", schema, [{name: value} for value in values])
    assert [row[name] for row in MindRecordReader.open(tmp_path / "x")] == values


@pytest.mark.parametrize("size", [1, 8183, 8184, 8185, 16375, 16376, 16377, 32759, 32760])
def test_records_at_the_end_of_a_page(tmp_path, size):
    rows = [{"content": bytes([k + 1]) * size} for k in range(9)]
    write(tmp_path / "x", {"content": Column(type="bytes")}, rows)
    with MindRecordReader.open(tmp_path / "x") as reader:
        assert list(reader) == rows
    per_page = (32 << 10) // (size + 8)
    blobs = [page for page in read_header(tmp_path / "x").pages if page.is_blob]
    assert len(blobs) == -(-9 // per_page)


def test_a_row_larger_than_a_page_is_refused_and_not_added(tmp_path):
    with MindRecordWriter(tmp_path / "x", {"content": Column(type="bytes")}, **SMALL) as writer:
        writer.add({"content": b"a"})
        with pytest.raises(InputError, match=r"row 1 cannot be written: it takes 32769 bytes"):
            writer.add({"content": bytes(32761)})
        writer.add({"content": b"b"})
    assert [row["content"] for row in MindRecordReader.open(tmp_path / "x")] == [b"a", b"b"]


def test_default_sizes_are_mindspores_and_sparse(tmp_path):
    path = tmp_path / "x"
    with MindRecordWriter(path, TOKENS) as writer:
        writer.add({"input_ids": [1, 2, 3]})
    header = read_header(path)
    assert (header.header_size, header.page_size) == (16777216, 33554432)
    assert path.stat().st_size == 16777216 + 33554432 + 13
    assert path.stat().st_blocks * 512 < 1 << 20


def test_the_same_rows_give_the_same_file(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "x", EVERY, [every_row(k) for k in range(99)], num_shards=2, index_fields=["name"])
    for name in ("x0", "x1", "x0.db", "x1.db"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_columns_are_selected_in_order(tmp_path):
    write(tmp_path / "x", EVERY, [every_row(3)])
    assert list(MindRecordReader.open(tmp_path / "x", ["name", "f32"]).row(0)) == ["name", "f32"]
    assert list(MindRecordReader.open(tmp_path / "x", ["i32"]).row(0)) == ["i32"]
    assert list(MindRecordReader.open(tmp_path / "x").row(0)) == sorted(EVERY)
    for wrong in (["nothing"], ["name", "name"], []):
        with pytest.raises(InputError, match="are not different ones of content, f32"):
            MindRecordReader.open(tmp_path / "x", wrong)


def test_no_such_row(tmp_path):
    write(tmp_path / "x", TOKENS, [{"input_ids": [1]}])
    for k in (-1, 1):
        with pytest.raises(IndexError, match=f"row {k} is not one of the 1 of"):
            MindRecordReader.open(tmp_path / "x").row(k)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("id", 2**63, "does not fit int64"),
        ("small", 2**31, "does not fit int32"),
        ("small", True, "bool, which is no int32"),
        ("small", 1.0, "float, which is no int32"),
        ("name", 3, "int, which is no string"),
        ("name", "\ud800", "surrogates not allowed"),
        ("score", "1", "str, which is no float64"),
        ("content", "text", "str, not bytes"),
        ("i32", [1, 2], r"has shape \[2\], not \[3\]"),
        ("i32", [1, 2, 2**31], "do not fit int32"),
        ("i32", [1.0, 2.0, 3.0], "holds float64, which is no int32"),
        ("f64", [1.0, 2.0], r"has shape \[2\], not \[2, -1\]"),
        ("f32", ["a"], "which is no float32"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path, column, value, reason):
    with pytest.raises(InputError, match=reason), MindRecordWriter(tmp_path / "x", EVERY, **SMALL) as writer:
        writer.add(every_row(1) | {column: value})
    assert list(tmp_path.iterdir()) == []


def test_missing_and_unknown_columns_are_refused(tmp_path):
    with MindRecordWriter(tmp_path / "x", TOKENS, **SMALL) as writer:
        for row in ({}, {"input_ids": [1], "labels": [1]}):
            with pytest.raises(InputError, match="it has the columns"):
                writer.add(row)
        writer.add({"input_ids": []})
    assert MindRecordReader.open(tmp_path / "x").row(0)["input_ids"].shape == (0,)


def test_a_set_without_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="no row was added"), MindRecordWriter(tmp_path / "x", TOKENS, **SMALL):
        pass
    assert list(tmp_path.iterdir()) == []


def test_fewer_rows_than_shards(tmp_path):
    write(tmp_path / "x", TOKENS, [{"input_ids": [k]} for k in range(2)], num_shards=4)
    assert [int(row["input_ids"][0]) for row in MindRecordReader.open(tmp_path / "x3")] == [0, 1]


def test_a_header_that_gets_too_long_is_refused(tmp_path):
    rows = [{"content": bytes(32760)}] * 100
    with pytest.raises(InputError, match="set a larger header_size or page_size"):
        write(tmp_path / "x", {"content": Column(type="bytes")}, rows)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_an_older_set_as_it_was(tmp_path):
    write(tmp_path / "x", TOKENS, [{"input_ids": [1]}])
    with pytest.raises(InputError, match="row 0 cannot be written"):
        write(tmp_path / "x", TOKENS, [{"input_ids": "text"}])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.db"]
    assert MindRecordReader.open(tmp_path / "x").row(0)["input_ids"].tolist() == [1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"schema": {}}, "at least one column"),
        ({"schema": {"a b": Column(type="string")}}, "letters, digits"),
        ({"index_fields": ["input_ids"]}, "not one column of numbers or strings"),
        ({"index_fields": ["other"]}, "not one column of numbers or strings"),
        ({"num_shards": 0}, "num_shards = 0 is not from 1 to 1000"),
        ({"page_size": 1}, "page_size = 1 is not from"),
        ({"page_size": 32769}, "no multiple of 4"),
        ({"header_size": 1 << 30}, "header_size = 1073741824 is not from"),
    ],
)
def test_sets_that_cannot_be_described_are_refused(tmp_path, options, reason):
    with pytest.raises(InputError, match=reason):
        MindRecordWriter(tmp_path / "x", **{"schema": TOKENS, **options})


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        ("int16", None, "not one of int32"),
        ("string", (1,), "has a shape"),
        ("int32", (), "is not 1 to 32 sizes"),
        ("int32", (-1, -1), "one of which may be -1"),
        ("int32", (0,), "neither positive nor -1"),
    ],
)
def test_columns_that_cannot_be(kind, shape, reason):
    with pytest.raises(ValueError, match=reason):
        Column(type=kind, shape=shape)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="x does not exist"):
        MindRecordReader.open(tmp_path / "x")
    write(tmp_path / "x", TOKENS, [{"input_ids": [k]} for k in range(9)], num_shards=3)
    with pytest.raises(InputError, match="name the file without .db"):
        MindRecordReader.open(tmp_path / "x0.db")
    (tmp_path / "x2.db").unlink()
    with pytest.raises(InputError, match="x2.db does not exist"):
        MindRecordReader.open(tmp_path / "x0")
    (tmp_path / "x1").rename(tmp_path / "y1")
    with pytest.raises(InputError, match="x1 does not exist"):
        MindRecordReader.open(tmp_path / "x0")
    with pytest.raises(InputError, match="was written as x1"):
        MindRecordReader.open(tmp_path / "y1")


def test_files_of_different_sets_are_refused(tmp_path):
    rows = [{"input_ids": [k]} for k in range(9)]
    write(tmp_path / "x", TOKENS, rows, num_shards=3)
    write(tmp_path / "other" / "x", TOKENS, rows, num_shards=4)
    for name in ("x1", "x1.db"):
        (tmp_path / "other" / name).replace(tmp_path / name)
    with pytest.raises(InputError, match="x1: it is not file 1 of the set x0, x1, x2"):
        MindRecordReader.open(tmp_path / "x0")


def test_numbered_sets_of_one_file_are_read_together(tmp_path):
    # As MindSpore's parallel writer leaves them; half of the rows would be silently less than the set.
    for name, tokens in (("x0", [1]), ("x1", [2])):
        write(tmp_path / name, TOKENS, [{"input_ids": tokens}])
    assert [row["input_ids"].tolist() for row in MindRecordReader.open(tmp_path / "x")] == [[1], [2]]
    assert len(MindRecordReader.open(tmp_path / "x1")) == 1


def edit_header(path: Path, change: dict[str, Any]) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]) | change
    text = json.dumps({key: value for key, value in header.items() if value != "absent"}).encode()
    path.write_bytes((len(text).to_bytes(8, "little") + text).ljust(16384, b"\0") + content[16384:])


PAGE = {"page_id": 0, "shard_id": 0, "page_type": "BLOB_DATA", "page_size": 300, "start_row_id": 0, "end_row_id": 20}
SCHEMA = {"desc": "", "blob_fields": ["input_ids"], "schema": {"input_ids": {"type": "int32", "shape": [-1]}}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "4.0"}, "version '4.0' is not one of"),
        ({"header_size": 10}, "header_size 10 is less than"),
        ({"header_size": 2**60}, "header_size = 1152921504606846976 is no number"),
        ({"page_size": 0}, "page_size is 0"),
        ({"page_size": 2**39}, "outside of its place"),
        ({"page_size": "32768"}, "page_size = '32768' is no number"),
        ({"shard_id": 1}, "shard_id = 1 is no number from 0 to 0"),
        ({"shard_addresses": ["../x"]}, "not a list of different file names"),
        ({"shard_addresses": ["x", "x"]}, "not a list of different file names"),
        ({"shard_addresses": ["y"]}, "was written as y"),
        ({"shard_addresses": ["x", "y"]}, "y does not exist"),
        ({"schema": []}, "not a list of one object"),
        ({"schema": [SCHEMA | {"blob_fields": []}]}, "are not the columns with a shape"),
        ({"schema": [SCHEMA | {"schema": {"input_ids": {"type": "int8"}}}]}, "type 'int8' is not one of"),
        ({"schema": [SCHEMA | {"schema": {"input_ids": {"type": "int32", "shape": [0]}}}]}, "neither positive nor"),
        ({"schema": [SCHEMA | {"schema": {"input_ids": {"type": "int32", "shape": None}}}]}, "no list of integers"),
        ({"index_fields": [{"index_field": "input_ids"}]}, "no column of numbers or strings"),
        ({"page": "absent"}, "page is no list of objects"),
        ({"page": None}, "it has 20 rows, but the pages of x 0"),
        ({"page": [PAGE]}, "outside of the used pages"),
        ({"page": [PAGE, PAGE]}, "page 0 follows page 0"),
        ({"page": [PAGE | {"page_type": "OTHER"}]}, "page_type 'OTHER'"),
        ({"page": [PAGE | {"page_size": 40000}]}, "outside of its place"),
        ({"page": [PAGE | {"start_row_id": 1}]}, "has rows 1 to 20 after 0"),
        ({"page": [PAGE | {"end_row_id": 10**12}]}, "but the pages of x 1000000000000"),
        ({"page": [PAGE | {"shard_id": 3}]}, "a page of shard 3"),
    ],
)
def test_a_wrong_header_is_refused_with_a_reason(tmp_path, change, reason):
    write(tmp_path / "x", TOKENS, [{"input_ids": [k]} for k in range(20)])
    edit_header(tmp_path / "x", change)
    with pytest.raises(InputError, match=reason):
        MindRecordReader.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes are fewer"),
        (b"\xff" * 8, "does not fit in a file of 8"),
        (b"\2" + bytes(7) + b"[]", "it is no JSON object"),
        ((100000).to_bytes(8, "little") + b"[" * 100000, "recursion"),
        ((5000).to_bytes(8, "little") + b"1" * 5000, "digits"),
        (b"\4" + bytes(7) + b'{"\xff"', "utf-8"),
        (b"\x0d" + bytes(7) + b'{"a":1,"a":2}', "a key occurs twice"),
    ],
)
def test_what_is_no_header_is_refused(tmp_path, content, reason):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        MindRecordReader.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        ("UPDATE SHARD_NAME SET NAME = 'y'", "files of a MindRecord set cannot be renamed"),
        ("DELETE FROM SHARD_NAME", "it belongs to"),
        ("DROP TABLE INDEXES", "the tables INDEXES and SHARD_NAME are not in it"),
        ("DELETE FROM INDEXES WHERE ROW_ID = 3", "are not 0 to 18"),
        ("DELETE FROM INDEXES WHERE ROW_ID = 19", "it has 19 rows, but the pages of x 20"),
        ("UPDATE INDEXES SET ROW_ID = 99 WHERE ROW_ID = 3", "are not 0 to 19"),
        ("UPDATE INDEXES SET PAGE_ID_BLOB = 1 WHERE ROW_ID = 3", "row 3 is in page 1"),
        ("UPDATE INDEXES SET PAGE_ID_RAW = 7 WHERE ROW_ID = 3", "row 3 lies at"),
        ("UPDATE INDEXES SET PAGE_OFFSET_BLOB = -9223372036854775808 WHERE ROW_ID = 3", "row 3 lies at"),
        ("UPDATE INDEXES SET PAGE_OFFSET_BLOB_END = 9223372036854775807 WHERE ROW_ID = 3", "row 3 lies at"),
        ("UPDATE INDEXES SET PAGE_OFFSET_RAW_END = -9223372036854775808 WHERE ROW_ID = 3", "row 3 lies at"),
        ("UPDATE INDEXES SET PAGE_OFFSET_RAW_END = PAGE_OFFSET_RAW_END + 1 WHERE ROW_ID = 3", "overlap"),
        ("UPDATE INDEXES SET PAGE_OFFSET_RAW = 'text' WHERE ROW_ID = 3", "not an integer"),
        ("UPDATE INDEXES SET PAGE_OFFSET_RAW = 1.5 WHERE ROW_ID = 3", "not an integer"),
        (
            "ALTER TABLE INDEXES RENAME TO T; CREATE VIEW INDEXES AS WITH RECURSIVE c(x) AS "
            "(SELECT 0 UNION ALL SELECT x + 1 FROM c) SELECT x ROW_ID, 1 PAGE_ID_RAW, 0 PAGE_OFFSET_RAW FROM c",
            "are not in it",
        ),
    ],
)
def test_a_wrong_index_is_refused_with_a_reason(tmp_path, statements, reason):
    write(tmp_path / "x", TOKENS, [{"input_ids": [k]} for k in range(20)])
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.executescript(statements)
    connection.close()
    with pytest.raises(InputError, match=reason):
        MindRecordReader.open(tmp_path / "x")


def test_no_database_is_refused(tmp_path):
    write(tmp_path / "x", TOKENS, [{"input_ids": [1]}])
    for content in (b"", b"no database", b"SQLite format 3\0" + bytes(84)):
        (tmp_path / "x.db").write_bytes(content)
        with pytest.raises(InputError, match="x.db: "):
            MindRecordReader.open(tmp_path / "x")


def test_damaged_records_are_refused_as_they_are_read(tmp_path):
    write(tmp_path / "x", TOKENS, [{"input_ids": [k]} for k in range(20)])
    content = bytearray((tmp_path / "x").read_bytes())
    content[16384 + 3 * 14] ^= 1  # the length of row 3
    content[16384 + 4 * 14 + 8] ^= 1  # the count of row 4
    (tmp_path / "x").write_bytes(content)
    reader = MindRecordReader.open(tmp_path / "x")
    assert reader.row(2)["input_ids"].tolist() == [2]
    with pytest.raises(InputError, match="row 3 cannot be read: a record of 7 bytes in a place for 6"):
        reader.row(3)
    with pytest.raises(InputError, match="row 4 cannot be read: input_ids: 16777217 packed integers do not fit"):
        reader.row(4)


def pretraining_set(path: Path, rows: list[list[int]], labels: list[list[int]] | None = None) -> MindRecordReader:
    schema = TOKENS if labels is None else TOKENS | {"labels": Column(type="int32", shape=(-1,))}
    write(
        path,
        schema,
        [
            {"input_ids": row} if labels is None else {"input_ids": row, "labels": labels[k]}
            for k, row in enumerate(rows)
        ],
    )
    return MindRecordReader.open(path)


def test_samples_are_rows(tmp_path):
    dataset = MindRecordDataset(pretraining_set(tmp_path / "x", [[1, 2, 3, 4], [5, 6, 7, 8]]), 3)
    assert len(dataset) == 2
    assert sample(dataset, 1) == [5, 6, 7, 8]
    stream = TokenStream(dataset, timeline=Timeline.even(batch_size=2), micro_batch_size=1, data_rank=0, data_size=1)
    batch = next(stream)
    assert batch.tokens.tolist() == [[1, 2, 3], [5, 6, 7]]
    assert batch.labels.tolist() == [[2, 3, 4], [6, 7, 8]]


@pytest.mark.parametrize(
    ("labels", "num_real", "expected"),
    [
        ([2, 3, 4], 4, [1, 2, 3, 4]),
        ([2, 3, -100], 3, [1, 2, 3, 0]),
        ([2, -100, -100], 2, [1, 2, 0, 0]),
        ([-100, -100, -100], 1, [1, 0, 0, 0]),
    ],
)
def test_labels_are_the_tokens_one_place_later(tmp_path, labels, num_real, expected):
    dataset = MindRecordDataset(pretraining_set(tmp_path / "x", [[1, 2, 3]], [labels]), 3, labels_column="labels")
    samples = read_samples(dataset, np.array([0]))
    assert samples.num_real.tolist() == [num_real]
    assert samples.tokens[0].tolist() == expected


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([1, 2, 3], "are not the input_ids one place later"),
        ([2, -100, 4], "before its end"),
        ([2, 3], "has 2 labels, but sequence_length 3 with labels needs 3"),
    ],
)
def test_other_labels_are_refused(tmp_path, labels, reason):
    with pytest.raises(InputError, match=reason):
        MindRecordDataset(pretraining_set(tmp_path / "x", [[1, 2, 3]], [labels]), 3, labels_column="labels")


def test_rows_of_another_length_or_kind_are_refused(tmp_path):
    reader = pretraining_set(tmp_path / "x", [[1, 2, 3, 4], [1, 2]])
    with pytest.raises(InputError, match="row 0 .* has 4 input_ids, but sequence_length 4 without labels needs 5"):
        MindRecordDataset(reader, 4)
    with pytest.raises(InputError, match="row 1 .* has 2 input_ids"):
        sample(MindRecordDataset(reader, 3), 1)
    with pytest.raises(InputError, match="labels is no column of integer arrays; its columns are input_ids"):
        MindRecordDataset(reader, 3, labels_column="labels")
