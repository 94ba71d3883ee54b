"""The layouts of name tables: what each one does to numbers, and that it can be undone to the bit."""

import typing

import pytest
import torch
from torch import Tensor

from firstlight.convert.tensor_layout import to_ours, to_theirs
from firstlight.models.names import TensorLayout


def numbered(*shape: int, first: int = 0) -> Tensor:
    """Elements that are all different."""
    count = torch.Size(shape).numel()
    return torch.arange(first, first + count, dtype=torch.float32).view(shape)


def stacks(count: int) -> list[Tensor]:
    """Two experts' matrices of 2 rows and 3 columns, so many times."""
    return [numbered(2, 2, 3, first=100 * number) for number in range(count)]


EXPECTED: dict[TensorLayout, tuple[int, list[Tensor]]] = {
    "same": (1, stacks(1)),
    "per_expert": (1, [numbered(2, 3), numbered(2, 3, first=6)]),
    "joined": (2, [torch.cat((numbered(2, 2, 3), numbered(2, 2, 3, first=100)))]),
    "transposed": (1, [torch.tensor([[[0.0, 3], [1, 4], [2, 5]], [[6, 9], [7, 10], [8, 11]]])]),
    "interleaved": (
        2,
        [
            torch.tensor(
                [
                    [[0.0, 100, 1, 101, 2, 102], [3, 103, 4, 104, 5, 105]],
                    [[6, 106, 7, 107, 8, 108], [9, 109, 10, 110, 11, 111]],
                ]
            )
        ],
    ),
    "interleaved_transposed": (
        2,
        [
            torch.tensor(
                [
                    [[0.0, 100, 3, 103], [1, 101, 4, 104], [2, 102, 5, 105]],
                    [[6, 106, 9, 109], [7, 107, 10, 110], [8, 108, 11, 111]],
                ]
            )
        ],
    ),
}


def test_every_layout_is_looked_at() -> None:
    assert set(EXPECTED) == set(typing.get_args(TensorLayout))


@pytest.mark.parametrize("layout", EXPECTED)
def test_layout_and_back(layout: TensorLayout) -> None:
    num_ours, expected = EXPECTED[layout]
    theirs = to_theirs(layout, stacks(num_ours))
    assert len(theirs) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(theirs, expected, strict=True))
    back = to_ours(layout, theirs, num_ours)
    assert len(back) == num_ours
    assert all(torch.equal(one, other) for one, other in zip(back, stacks(num_ours), strict=True))
