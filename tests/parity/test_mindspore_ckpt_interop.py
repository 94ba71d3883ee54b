"""MindSpore's own reader and writer of checkpoints, and its own merging of ranks, against ours."""

from pathlib import Path

import numpy as np
import pytest
import torch

from firstlight.convert.mindspore_ckpt import DTYPES
from firstlight.convert.mindspore_ckpt_reader import MindSporeCkpt
from firstlight.convert.mindspore_ckpt_writer import MindSporeCkptWriter
from tests.parity.other_python import interpreter, run
from tests.unit.convert.test_mindformers_folders import CUTS, whole_tensor, write_ranks

pytestmark = pytest.mark.interop

READ = """
import sys
import mindspore as ms
import numpy as np
path, out = sys.argv[1:]
for checked in (False, True):
    found = ms.load_checkpoint(path, crc_check=checked)
values = {}
for name, one in found.items():
    values[name + ":" + str(one.dtype)] = (one.astype(ms.float32) if one.dtype == ms.bfloat16 else one).asnumpy()
np.savez(out, **values)
"""

WRITE = """
import sys
import mindspore as ms
import numpy as np
path, values = sys.argv[1], np.load(sys.argv[2])
params = [{"name": name, "data": ms.Tensor(values[name])} for name in values.files]
params.append({"name": "bf16", "data": ms.Tensor(values["Float32"], ms.bfloat16)})
ms.save_checkpoint(params, path, crc_check=True, append_dict={"epoch_num": 3, "note": "text"})
"""

MERGE = """
import sys
import mindspore as ms
source, strategy, out = sys.argv[1:]
ms.transform_checkpoints(source, out, "whole", strategy, None)
"""

NOT_MERGED = ("vector_by_two",)
"""MindSpore does not merge a vector that is cut by two axes: its strategy reads like that of a matrix."""


@pytest.fixture(scope="module")
def python() -> str:
    return interpreter("FIRSTLIGHT_MINDSPORE_PYTHON", "mindspore")


def sample(dtype: torch.dtype) -> torch.Tensor:
    numbers = torch.tensor([[0, 1, 2], [3, 1, 100]])
    return numbers.remainder(2).to(dtype) if dtype == torch.bool else numbers.to(dtype)


def test_mindspore_reads_ours(python: str, tmp_path: Path) -> None:
    path = tmp_path / "ours.ckpt"
    with path.open("wb") as file:
        writer = MindSporeCkptWriter(file=file, piece_bytes=40)
        for name, dtype in DTYPES.items():
            writer.add(name, sample(dtype))
        writer.add("number", torch.tensor(1.5))
        writer.add("pieces", torch.arange(60.0).view(10, 6))
        writer.finish()
    run(python, READ, path, tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as found:
        values = {name.partition(":")[0]: found[name] for name in found.files}
        kinds = dict(name.split(":") for name in found.files)
    for name, dtype in DTYPES.items():
        assert kinds[name].lower() == name.lower()
        np.testing.assert_array_equal(values[name], sample(torch.float32 if dtype == torch.bfloat16 else dtype).numpy())
    assert values["number"] == 1.5
    np.testing.assert_array_equal(values["pieces"], np.arange(60).reshape(10, 6))


def test_we_read_mindspores(python: str, tmp_path: Path) -> None:
    numpy_dtypes = {name: dtype for name, dtype in DTYPES.items() if dtype != torch.bfloat16}
    np.savez(tmp_path / "values.npz", **{name: sample(dtype).numpy() for name, dtype in numpy_dtypes.items()})
    run(python, WRITE, tmp_path / "theirs.ckpt", tmp_path / "values.npz")
    ckpt = MindSporeCkpt(tmp_path / "theirs.ckpt")
    assert ckpt.has_crc
    for name, dtype in numpy_dtypes.items():
        assert ckpt.read(name).dtype == dtype
        assert torch.equal(ckpt.read(name), sample(dtype))
    assert torch.equal(ckpt.read("bf16"), sample(torch.bfloat16))
    assert int(ckpt.read("epoch_num")) == 3
    assert ckpt.texts == {"note": "text"}


def test_mindspore_merges_ranks_by_the_same_strategies(python: str, tmp_path: Path) -> None:
    write_ranks(tmp_path, as_ckpt=True, without=NOT_MERGED)
    strategy = tmp_path / "strategy" / "ckpt_strategy_rank_0.ckpt"
    run(python, MERGE, tmp_path / "checkpoint", strategy, tmp_path / "merged")
    merged = MindSporeCkpt(next((tmp_path / "merged").rglob("*.ckpt")))
    for name in CUTS.keys() - set(NOT_MERGED):
        assert torch.equal(merged.read(name), whole_tensor(name)), name
