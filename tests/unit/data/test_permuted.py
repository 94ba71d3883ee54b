"""Permutations that are some, samples once an epoch, and data sets that do not lie in order."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.base.errors import InputError
from firstlight.data.contiguous import ContiguousDataset, ContiguousTokens
from firstlight.data.epochs import Epochs
from firstlight.data.indexed import HEADER, MAGIC, bin_path, idx_path
from firstlight.data.permutation import Permutation
from firstlight.data.samples import read_samples
from tests.unit.data.numbered import sample, write

LARGE = [2**16, 2**20 + 1, 10**9, 2**32 - 1, 2**36 + 5, 2**40, 2**52 + 3]


def permutation(size: int, seed: int = 1, epoch: int = 0, source: int = 0) -> Permutation:
    return Permutation(size, seed=seed, epoch=epoch, source=source)


@given(size=st.integers(1, 5000), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_place_is_reached_once(size: int, seed: int) -> None:
    permuted = permutation(size, seed)
    assert sorted(permuted(place) for place in range(size)) == list(range(size))


def test_every_small_size_is_a_bijection() -> None:
    for size in range(1, 260):
        permuted = permutation(size)
        assert sorted(permuted(place) for place in range(size)) == list(range(size))


@pytest.mark.parametrize("size", LARGE)
def test_large_sizes_stay_inside_and_do_not_collide(size: int) -> None:
    permuted = permutation(size)
    places = np.random.default_rng(0).integers(0, size, 3000).tolist()
    different = set(places) | {0, size - 1}
    reached = [permuted(place) for place in different]
    assert all(0 <= value < size for value in reached)
    assert len(set(reached)) == len(different)
    assert abs(np.mean(reached) / size - 0.5) < 0.05


def test_every_place_is_about_as_frequent() -> None:
    """Where the first of 6 goes, over 6,000 keys."""
    first = np.bincount([permutation(6, seed)(0) for seed in range(6000)], minlength=6)
    assert first.min() > 850
    assert first.max() < 1150


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}, {"source": 1}])
def test_seed_epoch_and_source_are_keys(other: dict[str, int]) -> None:
    one, another = permutation(1000), permutation(1000, **other)
    assert sum(one(place) == another(place) for place in range(1000)) < 20


@pytest.mark.parametrize(("size", "place"), [(5, 5), (5, -1), (1, 1)])
def test_places_outside_are_an_error(size: int, place: int) -> None:
    with pytest.raises(IndexError, match=f"{place} is not one of the {size} places"):
        permutation(size)(place)


def test_the_order_stays_the_same_for_good() -> None:
    """Runs that are continued depend on these numbers."""
    assert [permutation(1000, seed=7, epoch=2, source=3)(place) for place in range(6)] == [
        630,
        208,
        323,
        422,
        269,
        972,
    ]


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20),
    length=st.integers(1, 9),
    num_epochs=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_sample_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], length: int, num_epochs: int
) -> None:
    if sum(lengths) < length + 1:
        return
    prefix = write(tmp_path_factory.mktemp("set") / "set", lengths).prefix
    tokens = ContiguousTokens.open(prefix, "1,0,0")
    size = (sum(lengths) - 1) // length
    dataset = Epochs(ContiguousDataset(tokens, length), num_samples=size * num_epochs, seed=1)
    assert len(dataset) == size * num_epochs
    for epoch in range(num_epochs):
        starts = []
        for k in range(epoch * size, (epoch + 1) * size):
            out = np.array(sample(dataset, k))
            assert out.tolist() == list(range(out[0], out[0] + length + 1))
            starts.append(int(out[0]))
        assert sorted(starts) == list(range(0, size * length, length))
    with pytest.raises(IndexError):
        sample(dataset, len(dataset))


def test_the_order_does_not_depend_on_the_samples_asked_for(tmp_path: Path) -> None:
    tokens = ContiguousTokens.open(write(tmp_path / "set", [500]).prefix, "1,0,0")
    read = []
    for num_samples in (1, 200):
        dataset = Epochs(ContiguousDataset(tokens, 4), num_samples=num_samples, seed=1)
        read.append(read_samples(dataset, np.arange(124)).tokens)
    np.testing.assert_array_equal(*read)


def test_a_split_is_a_part_of_the_run(tmp_path: Path) -> None:
    prefix = write(tmp_path / "set", [10, 0, 7, 3], "uint16").prefix
    assert ContiguousTokens.open(prefix, "50,50,0").values.tolist() == list(range(10))
    assert ContiguousTokens.open(prefix, "1,0,0").values.tolist() == list(range(20))
    assert len(ContiguousTokens.open(prefix, "0,1,0")) == 0


def written(prefix: Path, lengths: list[int], pointers: list[int], size: int) -> Path:
    index = HEADER.pack(MAGIC, 1, 8, len(lengths), 2)
    index += struct.pack(f"<{len(lengths)}i{len(pointers)}q2q", *lengths, *pointers, 0, len(lengths))
    idx_path(prefix).write_bytes(index)
    bin_path(prefix).write_bytes(bytes(size))
    return prefix


@pytest.mark.parametrize(
    ("lengths", "pointers", "size", "fault"),
    [
        ([2, 2], [4, 0], 8, "its first sequence begins at byte 4, not 0"),
        ([2, 2, 2], [0, 6, 10], 14, "sequence 1 begins at byte 6, not 4"),
        ([2, 2, 2], [0, 4, 6], 12, "sequence 2 begins at byte 6, not 8"),
        ([2, -2, 2], [0, 4, 0], 12, "sequence 2 begins at byte 0, not 0"),
        ([2, 2], [0, 4], 6, "its sequences lie at bytes 0 to 8 of a .bin file of 6 bytes"),
        ([2, -3], [0, 4], 6, "its sequences lie at bytes 0 to -2 of a .bin file of 6 bytes"),
    ],
)
def test_sequences_out_of_order_are_refused(
    tmp_path: Path, lengths: list[int], pointers: list[int], size: int, fault: str
) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        ContiguousTokens.open(written(tmp_path / "set", lengths, pointers, size), "1,0,0")
    assert "use order: megatron" in str(caught.value)


def test_a_fault_anywhere_in_a_middling_file_is_found(tmp_path: Path) -> None:
    lengths = [1] * 1025
    for wrong in range(1, 1025):
        pointers = [2 * place + 2 * (place >= wrong) for place in range(1025)]
        with pytest.raises(InputError, match=f"sequence {wrong} begins"):
            ContiguousTokens.open(written(tmp_path / "set", lengths, pointers, 4000), "1,0,0")
