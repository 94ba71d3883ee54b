"""Checkpoint files that MindSpore wrote: every value read, and the same bytes when they are written here."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from firstlight.base.errors import InputError
from firstlight.convert.mindspore_ckpt_reader import MindSporeCkpt
from firstlight.convert.mindspore_ckpt_writer import MindSporeCkptWriter
from firstlight.convert.safetensors_files import SafetensorsFiles

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "mindspore" / "ckpt"
TINY = GOLDENS.parent / "tiny_deepseek_run" / "tiny_weights_step1.ckpt"
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"the checkpoint goldens are not in {GOLDENS}")

FILES = ("types.ckpt", "types.ckpt.crc.ckpt")
_WIDENED = {torch.bfloat16: torch.float32}
"""numpy has no bfloat16; the goldens hold it as float32."""


def test_every_value_is_mindspores() -> None:
    facts = json.loads((GOLDENS / "expected.json").read_text())["types.ckpt"]
    with np.load(GOLDENS / "expected.npz") as expected:
        for file in FILES:
            ckpt = MindSporeCkpt(GOLDENS / file)
            assert ckpt.has_crc is ("crc" in file)
            assert set(facts["params"]) <= set(ckpt.tensors)
            for name, one in facts["params"].items():
                found = ckpt.read(name)
                assert list(found.shape) == one["shape"]
                values = found.to(_WIDENED.get(found.dtype, found.dtype)).numpy()
                np.testing.assert_array_equal(values, expected[name])
    assert facts["append_dict"]["note"] == MindSporeCkpt(GOLDENS / "types.ckpt").texts["note"]
    assert int(MindSporeCkpt(GOLDENS / "types.ckpt").read("step_num")) == facts["append_dict"]["step_num"]


def test_its_safetensors_hold_the_same() -> None:
    ckpt, other = MindSporeCkpt(GOLDENS / "types.ckpt"), GOLDENS / "types.safetensors"
    files = SafetensorsFiles(other, [other])
    shared = set(files.tensors) & set(ckpt.tensors)
    assert len(shared) >= 14
    for name in shared:
        one, two = ckpt.read(name), files.read(name)
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        assert torch.equal(one.view(-1).view(torch.uint8), two.view(-1).view(torch.uint8))


@pytest.mark.parametrize("path", [*(GOLDENS / file for file in FILES), TINY], ids=lambda path: path.name)
def test_written_here_it_is_the_same_file(path: Path) -> None:
    ckpt, file = MindSporeCkpt(path), io.BytesIO()
    writer = MindSporeCkptWriter(file=file)
    for name in ckpt._entries:
        if name in ckpt.texts:
            writer.add_text(name, ckpt.texts[name])
        else:
            writer.add(name, ckpt.read(name))
    if ckpt.has_crc:
        writer.finish()
    assert file.getvalue() == path.read_bytes()


def test_an_encrypted_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"enc\.ckpt is no MindSpore checkpoint, or it is torn, damaged or encrypted"):
        MindSporeCkpt(GOLDENS / "enc.ckpt")


def test_no_flipped_bit_passes(tmp_path: Path) -> None:
    content, rng = (GOLDENS / "types.ckpt.crc.ckpt").read_bytes(), random.Random(0)
    path = tmp_path / "flipped.ckpt"
    for _ in range(400):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(InputError):
            MindSporeCkpt(path)
