"""MindSpore's `.ckpt`: written byte by byte as the format is described, read back, and refused when damaged."""

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.convert.mindspore_ckpt import DTYPES
from firstlight.convert.mindspore_ckpt_reader import MindSporeCkpt
from firstlight.convert.mindspore_ckpt_writer import MindSporeCkptWriter
from tests.unit.convert.mutations import mutated


def part(number: int, content: bytes) -> bytes:
    """A field with a length, of less than 128 bytes."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def value(name: str, tensor: bytes) -> bytes:
    return part(1, part(1, name.encode()) + part(2, tensor))


def dims(*sizes: int) -> bytes:
    return b"".join(bytes([0x08, size]) for size in sizes)


def described(kind: str, content: bytes, *sizes: int) -> bytes:
    return dims(*sizes) + part(2, kind.encode()) + part(3, content)


def written(*tensors: tuple[str, Tensor | str], with_crc: bool = False, piece_bytes: int = 1 << 20) -> bytes:
    file = io.BytesIO()
    writer = MindSporeCkptWriter(file=file, piece_bytes=piece_bytes)
    for name, tensor in tensors:
        if isinstance(tensor, str):
            writer.add_text(name, tensor)
        else:
            writer.add(name, tensor)
    if with_crc:
        writer.finish()
    return file.getvalue()


def opened(folder: Path, content: bytes) -> MindSporeCkpt:
    path = folder / "weights.ckpt"
    path.write_bytes(content)
    return MindSporeCkpt(path)


def sample(dtype: torch.dtype) -> Tensor:
    numbers = torch.tensor([[0, 1, 2], [3, 1, 127]])
    return numbers.remainder(2).to(dtype) if dtype == torch.bool else numbers.to(dtype)


def test_written_as_described() -> None:
    matrix = torch.tensor([[1.5, -2.0]])
    expected = value("a.weight", described("Float32", struct.pack("<2f", 1.5, -2.0), 1, 2))
    expected += value("half", described("BFloat16", struct.pack("<2H", 0x3FC0, 0xC000), 2))
    expected += value("step_num", described("Int64", struct.pack("<q", -7)))
    expected += value("flag", described("Bool", b"\x01"))
    expected += value("note", described("str", "né".encode("utf-32-le"), 0))
    expected += b"crc_num" + struct.pack(">HQ", 0, zlib.crc32(expected))
    content = written(
        ("a.weight", matrix),
        ("half", torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
        ("step_num", torch.tensor(-7)),
        ("flag", torch.tensor(True)),
        ("note", "né"),
        with_crc=True,
    )
    assert content == expected


def test_long_numbers_in_the_description() -> None:
    content = written(("x" * 200, torch.zeros(300, dtype=torch.uint8)))
    tensor = b"\x08\xac\x02" + part(2, b"UInt8") + b"\x1a\xac\x02" + bytes(300)
    entry = b"\x0a\xc8\x01" + b"x" * 200 + b"\x12" + bytes([len(tensor) & 0x7F | 0x80, len(tensor) >> 7]) + tensor
    assert content == b"\x0a" + bytes([len(entry) & 0x7F | 0x80, len(entry) >> 7]) + entry


@pytest.mark.parametrize("with_crc", [False, True])
def test_every_dtype_comes_back(tmp_path: Path, with_crc: bool) -> None:
    tensors = {name: sample(dtype) for name, dtype in DTYPES.items()}
    tensors |= {f"{name}.scalar": tensor[1, 1] for name, tensor in tensors.items()}
    tensors["empty"] = torch.zeros(0, 3)
    ckpt = opened(tmp_path, written(*tensors.items(), with_crc=with_crc))
    assert ckpt.has_crc is with_crc
    assert list(ckpt.tensors) == list(tensors)
    for name, tensor in tensors.items():
        found = ckpt.read(name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found.view(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_not_finite_values_come_back(tmp_path: Path) -> None:
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    found = opened(tmp_path, written(("x", values))).read("x")
    assert torch.equal(found.view(torch.int32), values.view(torch.int32))


def test_texts_come_back(tmp_path: Path) -> None:
    ckpt = opened(tmp_path, written(("x", torch.ones(1)), ("note", "text é"), ("none", "")))
    assert ckpt.texts == {"note": "text é", "none": ""}
    assert list(ckpt.tensors) == ["x"]


def test_pieces_are_joined(tmp_path: Path) -> None:
    tensor = torch.arange(25, dtype=torch.float32).view(5, 5)
    content = written(("before", torch.ones(2)), ("x", tensor), piece_bytes=36)
    assert content.count(b"Float32") == 4
    assert torch.equal(opened(tmp_path, content).read("x"), tensor)


def test_packed_dims_any_order_and_old_scalars(tmp_path: Path) -> None:
    content = part(
        1, part(2, part(3, struct.pack("<2f", 1, 2)) + part(2, b"Float32") + part(1, b"\x02\x01")) + part(1, b"x")
    )
    content += value("old", described("Float32", struct.pack("<f", 3), 0))
    ckpt = opened(tmp_path, content)
    assert ckpt.read("x").tolist() == [[1.0], [2.0]]
    assert ckpt.read("old").tolist() == 3.0


FLOAT = struct.pack("<f", 1)
DAMAGED = {
    "bytes": (value("x", described("Float32", FLOAT, 2)), "x has 4 bytes, but is Float32 of shape \\[2\\]"),
    "type": (value("x", described("Int4", b"\x01", 1)), "of type Int4"),
    "no type": (value("x", dims(1) + part(3, FLOAT)), "of type None"),
    "no name": (part(1, part(2, described("Float32", FLOAT, 1))), "without name"),
    "no tensor": (part(1, part(1, b"x")), "without name or tensor"),
    "hash table": (part(1, part(1, b"x") + part(3, b"")), "hash table"),
    "names": (
        b"".join(value(name, described("Float32", FLOAT, 1)) for name in ("x", "y", "x")),
        "two parameters are called x",
    ),
    "pieces": (
        value("x", described("Float32", FLOAT, 2)) + value("x", described("Float32", FLOAT, 1, 2)),
        "different shape or type",
    ),
    "negative": (value("x", b"\x08" + b"\xff" * 9 + b"\x01" + part(2, b"Float32")), "has the shape \\[-1\\]"),
    "huge": (value("x", b"\x08\x00\x08" + b"\xff" * 8 + b"\x7f" + part(2, b"Float32")), "has the shape"),
    "endless number": (b"\x0a" + b"\xff" * 12, "more than 64 bits"),
    "cut": (value("x", described("Float32", FLOAT, 1))[:-1], "only 19 are left|left"),
    "other field": (part(2, b"x"), "field 2 where an entry is expected"),
    "group": (b"\x0b", "wire type 3"),
    "field 0": (b"\x02\x00", "field 0"),
    "name": (part(1, part(1, b"\xff") + part(2, described("Float32", FLOAT, 1))), "not UTF-8"),
    "text": (value("x", described("str", b"abc", 0)), "x is no text"),
    "text shape": (value("x", described("str", b"", 1)), "is a text"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(tmp_path, content)


def test_bool_of_other_bytes(tmp_path: Path) -> None:
    ckpt = opened(tmp_path, value("x", described("Bool", b"\x02", 1)))
    with pytest.raises(InputError, match="x is Bool"):
        ckpt.read("x")


def test_missing_file_and_file_that_shrinks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        MindSporeCkpt(tmp_path / "none.ckpt")
    ckpt = opened(tmp_path, written(("x", torch.ones(100))))
    ckpt.place.write_bytes(b"")
    with pytest.raises(InputError, match="shorter"):
        ckpt.read("x")


def test_a_dtype_that_the_format_does_not_have() -> None:
    with pytest.raises(InputError, match="complex64"):
        written(("x", torch.ones(1, dtype=torch.complex64)))


def whole() -> bytes:
    tensors = [(name, sample(dtype)) for name, dtype in DTYPES.items()]
    return written(*tensors, ("note", "text"), ("x" * 40, torch.arange(60.0)), with_crc=True)


def test_no_mutation_is_read_in_silence(tmp_path: Path) -> None:
    content, rng = whole(), random.Random(0)
    expected = opened(tmp_path, content)
    names = list(expected.tensors)
    expected_values = {name: expected.read(name) for name in names}
    refused = 0
    for _ in range(400):
        changed = mutated(content, rng)
        if changed == content:
            continue
        try:
            ckpt = opened(tmp_path, changed)
        except InputError:
            refused += 1
            continue
        # A file whose checksum was cut off whole has none: what is left of it must still be right.
        assert not ckpt.has_crc
        assert list(ckpt.tensors) == names[: len(ckpt.tensors)]
        assert all(torch.equal(ckpt.read(name), expected_values[name]) for name in ckpt.tensors)
    assert refused > 370


def test_mutations_without_checksum_are_read_or_refused(tmp_path: Path) -> None:
    content, rng = whole()[:-17], random.Random(1)
    for _ in range(400):
        try:
            ckpt = opened(tmp_path, mutated(content, rng))
            for name in ckpt.tensors:
                ckpt.read(name)
        except InputError:
            pass
