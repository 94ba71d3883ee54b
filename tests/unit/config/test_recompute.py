"""Ranges of layers, and choices of recomputation that contradict themselves."""

import pytest
from pydantic import ValidationError

from firstlight.config.recompute import LayerRange, ModuleRecompute


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (LayerRange(), [0, 1, 2, 3, 4, 5, 6]),
        (LayerRange(first=2), [2, 3, 4, 5, 6]),
        (LayerRange(last=2), [0, 1, 2]),
        (LayerRange(first=1, every=2), [1, 3, 5]),
        (LayerRange(first=1, last=4, every=3), [1, 4]),
        (LayerRange(first=3, last=3), [3]),
    ],
)
def test_range_contains(layers: LayerRange, expected: list[int]) -> None:
    assert [layer for layer in range(7) if layers.contains(layer)] == expected


def test_range_that_ends_before_it_begins() -> None:
    with pytest.raises(ValidationError, match="first = 3 comes after last = 2; use a last layer from 3"):
        LayerRange(first=3, last=2)


def test_module_inside_of_another() -> None:
    with pytest.raises(ValidationError, match="feed_forward contains experts and shared_expert; name one or the other"):
        ModuleRecompute(modules=("shared_expert", "feed_forward", "experts"))
