"""The layouts of name tables: what each one does to numbers, and that it can be undone to the bit."""

import typing

import pytest
import torch
from torch import Tensor

from firstlight.convert.tensor_layout import to_ours, to_theirs
from firstlight.models.names import Entry, TensorLayout


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
    "grouped": (
        2,
        [
            torch.cat(
                (
                    numbered(1, 2, 3),
                    numbered(1, 2, 3, first=100),
                    numbered(1, 2, 3, first=6),
                    numbered(1, 2, 3, first=106),
                )
            )
        ],
    ),
    "interleaved_rows": (
        2,
        [
            torch.cat(
                (
                    numbered(1, 2, 3),
                    numbered(1, 2, 3, first=100),
                    numbered(1, 2, 3, first=6),
                    numbered(1, 2, 3, first=106),
                )
            )
        ],
    ),
    "transposed_joined": (
        2,
        [
            torch.tensor(
                [
                    [[0.0, 3, 100, 103], [1, 4, 101, 104], [2, 5, 102, 105]],
                    [[6, 9, 106, 109], [7, 10, 107, 110], [8, 11, 108, 111]],
                ]
            )
        ],
    ),
    "flat_transposed": (1, [torch.tensor([[0.0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]])]),
    "flat_transposed_joined": (
        2,
        [
            torch.tensor(
                [
                    [0.0, 3, 100, 103],
                    [1, 4, 101, 104],
                    [2, 5, 102, 105],
                    [6, 9, 106, 109],
                    [7, 10, 107, 110],
                    [8, 11, 108, 111],
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
    entry = Entry(ours=("ours",) * num_ours, theirs=("theirs",) * len(expected), layout=layout, groups=2)
    theirs = to_theirs(entry, stacks(num_ours))
    assert len(theirs) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(theirs, expected, strict=True))
    back = to_ours(entry, theirs, [one.shape for one in stacks(num_ours)])
    assert len(back) == num_ours
    assert all(torch.equal(one, other) for one, other in zip(back, stacks(num_ours), strict=True))


def test_parts_of_unequal_size() -> None:
    parts = [numbered(4, 3), numbered(2, 3, first=100), numbered(2, 3, first=200)]
    shapes = [part.shape for part in parts]
    for layout, groups, rows in (
        ("joined", 1, [0, 1, 2, 3, 100, 101, 200, 201]),
        ("grouped", 2, [0, 1, 100, 200, 2, 3, 101, 201]),
    ):
        entry = Entry(ours=("q", "k", "v"), theirs=("qkv",), layout=layout, groups=groups)
        (theirs,) = to_theirs(entry, parts)
        assert [
            first // 3 if first < 100 else first // 100 * 100 + first % 100 // 3
            for first in theirs[:, 0].int().tolist()
        ] == rows
        assert all(torch.equal(one, part) for one, part in zip(to_ours(entry, [theirs], shapes), parts, strict=True))
