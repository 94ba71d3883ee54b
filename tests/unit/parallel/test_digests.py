"""Digests tell any changed bit, and what ranks have under the same names is compared."""

import numpy as np
import pytest
import torch

from firstlight.parallel.digests import Digests, differing, number_of


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("size", [1, 7, 4096, (1 << 19) + 3])
def test_every_bit_counts(dtype: torch.dtype, size: int) -> None:
    digests, source = Digests(), torch.Generator().manual_seed(0)
    tensor = torch.randint(-100, 100, (size,), generator=source).to(dtype)
    before = int(digests.of(tensor))
    assert int(digests.of(tensor.clone())) == before
    content = tensor.view(torch.uint8)
    for place in {0, len(content) - 1, len(content) // 2}:
        for bit in (0, 7):
            content[place] ^= 1 << bit
            assert int(digests.of(tensor)) != before
            content[place] ^= 1 << bit


def test_the_order_of_words_counts() -> None:
    digests = Digests()
    tensor = torch.arange(1 << 19, dtype=torch.int64)
    assert int(digests.of(tensor)) != int(digests.of(tensor.flip(0)))
    rolled = tensor.roll(1 << 18)
    assert int(digests.of(tensor)) != int(digests.of(rolled))


def test_blocks_that_are_no_whole_words_or_begin_within_one() -> None:
    tensor = torch.arange(64, dtype=torch.float32).view(8, 8)
    digests = Digests()
    assert int(digests.of(tensor[1:3, 1:6])) == int(digests.of(tensor[1:3, 1:6].clone()))
    assert int(digests.of(tensor.view(-1)[1:9])) == int(digests.of(tensor.view(-1)[1:9].clone()))


def test_who_differs() -> None:
    a, b, c = (number_of(name) for name in "abc")
    rows = [[(a, 1), (b, 5)], [(a, 1), (c, 9)], [(b, 6), (0, 0)], [(a, 2), (b, 5)]]
    assert differing(np.array(rows, np.int64)) == {a: {0: 1, 1: 1, 3: 2}, b: {0: 5, 2: 6, 3: 5}}
    assert differing(np.array(rows[:2], np.int64)) == {}
