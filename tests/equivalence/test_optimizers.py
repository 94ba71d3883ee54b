"""Every optimizer makes the same fifty updates in every layout, within 1e-6, and when it is resumed in the middle."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.equivalence.optimizer_rank import CASES
from tests.equivalence.test_layouts import run_ranks

MODULE = "tests.equivalence.optimizer_rank"
TOLERANCE = 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("size", "is_slow"), [(2, False), (2, True), (4, True)])
def test_optimizers_update_in_every_layout_as_on_one_rank(size: int, is_slow: bool, tmp_path: Path) -> None:
    names = [name for name, case in CASES.items() if case.layout.world_size == size and case.is_slow == is_slow]
    run_ranks(tmp_path / "alone", 1, sorted({f"{CASES[name].kind}_alone" for name in names}), module=MODULE)
    run_ranks(tmp_path / "ranks", size, names, module=MODULE)
    for name in names:
        whole = load_file(tmp_path / "alone" / f"{CASES[name].kind}_alone-0.safetensors")
        covered = {key: 0 for key in whole}
        seen = set()
        for rank in range(size):
            blocks = load_file(tmp_path / "ranks" / f"{name}-{rank}.safetensors")
            offsets = json.loads((tmp_path / "ranks" / f"{name}-{rank}.json").read_text())
            assert blocks.keys() == whole.keys()
            for key, block in blocks.items():
                where = tuple(slice(o, o + n) for o, n in zip(offsets[key], block.shape, strict=True))
                torch.testing.assert_close(
                    block,
                    whole[key][where],
                    rtol=TOLERANCE,
                    atol=TOLERANCE,
                    msg=lambda text, case=name, key=key, rank=rank: f"{case}: {key} on rank {rank}: {text}",
                )
                place = (key, tuple(offsets[key]), block.shape)
                covered[key] += 0 if place in seen else block.numel()
                seen.add(place)
        assert covered == {key: tensor.numel() for key, tensor in whole.items()}, name
