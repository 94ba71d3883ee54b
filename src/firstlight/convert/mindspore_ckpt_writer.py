"""Writes MindSpore's `.ckpt` files entry by entry, as MindSpore itself writes them."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.checkpoint.blocks import bytes_of
from firstlight.convert.mindspore_ckpt import (
    CONTENT,
    CRC_MARK,
    DIMS,
    DTYPES,
    PIECE_BYTES,
    TAG,
    TENSOR,
    TENSOR_TYPE,
    TEXT_ENCODING,
    TEXT_TYPE,
    VALUE,
)
from firstlight.convert.wire import bytes_field, bytes_key, integer_field

_TYPE_OF = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(kw_only=True)
class MindSporeCkptWriter:
    """Entries into `file`, from its place on. With `crc`, that of all bytes before it, a file is gone on with."""

    file: BinaryIO
    crc: int = 0
    piece_bytes: int = PIECE_BYTES

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a parameter. Raises InputError for a data type that the format does not have."""
        if tensor.dtype not in _TYPE_OF:
            raise InputError(f"{name} is {tensor.dtype}, which a MindSpore checkpoint cannot hold; choose a dtype")
        content = bytes_of(tensor.cpu().contiguous())
        pieces = [content[at : at + self.piece_bytes] for at in range(0, len(content), self.piece_bytes)]
        for piece in pieces or [content]:
            self._add(name, tuple(tensor.shape), _TYPE_OF[tensor.dtype], piece)

    def add_text(self, name: str, text: str) -> None:
        """Append a text."""
        self._add(name, (0,), TEXT_TYPE, text.encode(TEXT_ENCODING))

    def finish(self) -> None:
        """End the file with its checksum, which may be left out."""
        self.file.write(CRC_MARK + self.crc.to_bytes(10, "big"))

    def _add(self, name: str, dims: Sequence[int], type_name: str, content: memoryview | bytes) -> None:
        described = b"".join(integer_field(DIMS, size) for size in dims) + bytes_field(TENSOR_TYPE, type_name.encode())
        described += bytes_key(CONTENT, len(content))
        tag = bytes_field(TAG, name.encode())
        tensor_key = bytes_key(TENSOR, len(described) + len(content))
        size = len(tag) + len(tensor_key) + len(described) + len(content)
        self._write(bytes_key(VALUE, size) + tag + tensor_key + described)
        self._write(content)

    def _write(self, content: memoryview | bytes) -> None:
        self.file.write(content)
        self.crc = zlib.crc32(content, self.crc)
