"""MindSpore's `.ckpt`: what an entry of the file is, for its reader and its writer.

The file is one protobuf message of repeated entries, so entries simply follow one another:
`Checkpoint.value = 1`; `Value.tag = 1, Value.tensor = 2, Value.maptensor = 3`;
`TensorProto.dims = 1, tensor_type = 2, tensor_content = 3`. docs/reference/formats.md has it in full.
"""

from collections.abc import Mapping

import torch

VALUE = 1
TAG, TENSOR, HASH_TABLE = 1, 2, 3
DIMS, TENSOR_TYPE, CONTENT = 1, 2, 3

TEXT_TYPE = "str"
"""Elements are UTF-32-LE code points, dims [0]."""

TEXT_ENCODING = "utf-32-le"

CRC_MARK = b"crc_num"
CRC_BYTES = len(CRC_MARK) + 10
"""The mark, then zlib's CRC-32 of everything before it as a big-endian number."""

PIECE_BYTES = 512 << 20
"""Contents longer than this are cut in pieces of this size, each in an entry of its own with the same name."""

DTYPES: Mapping[str, torch.dtype] = {
    "Float16": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float32": torch.float32,
    "Float64": torch.float64,
    "Int8": torch.int8,
    "Int16": torch.int16,
    "Int32": torch.int32,
    "Int64": torch.int64,
    "UInt8": torch.uint8,
    "UInt16": torch.uint16,
    "UInt32": torch.uint32,
    "UInt64": torch.uint64,
    "Bool": torch.bool,
}
"""Little-endian, in C order."""
