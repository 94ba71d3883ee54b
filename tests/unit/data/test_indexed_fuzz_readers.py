"""Damaged Megatron data sets, given to everything that reads them: InputError or an answer, never anything else."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from firstlight.base.errors import InputError
from firstlight.data.contiguous import ContiguousDataset, ContiguousTokens
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.gpt_order import build_order
from firstlight.data.indexed import IndexedDataset, bin_path, idx_path
from firstlight.data.indexed_facts import facts, verify
from firstlight.data.indexed_merge import merge
from firstlight.data.indexed_split import cuts_of_shares, split
from firstlight.data.indexed_stats import stats
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.samples import Dataset, read_samples
from firstlight.data.sequential_dataset import SequentialDataset
from tests.unit.data.test_indexed_fuzz import mutate

LENGTH = 8
MOST_TOKENS = 100_000
"""A damaged pointer can lay sequences over each other, but not more than this of them here."""


def read_all(dataset: Dataset) -> None:
    samples = read_samples(dataset, np.arange(len(dataset)))
    assert samples.tokens.shape == (len(dataset), LENGTH + 1)


def opened(prefix: Path) -> IndexedDataset | None:
    """None where the damage left floats, or too few tokens for a sample."""
    one = IndexedDataset.open(prefix)
    assert one.num_tokens < MOST_TOKENS
    return one if one.dtype.kind in "iu" and one.num_tokens > LENGTH else None


def megatron(prefix: Path) -> None:
    if one := opened(prefix):
        order = build_order(one.lengths, range(len(one)), num_samples=100, sequence_length=LENGTH, seed=1)
        read_all(GptDataset(one, order, LENGTH))


def sequential(prefix: Path) -> None:
    if one := opened(prefix):
        read_all(SequentialDataset(one, LENGTH, range(len(one))))


def permuted(prefix: Path) -> None:
    tokens = ContiguousTokens.open(prefix, "1,0,0")
    if tokens.values.dtype.kind in "iu" and len(tokens) > LENGTH:
        read_all(ContiguousDataset(tokens, LENGTH))


def split_and_merged(prefix: Path) -> None:
    parts = split(prefix, prefix.with_name("part"), cuts_of_shares(facts(prefix).num_documents, [1, 1]))
    merge(parts, prefix.with_name("merged"))
    one, other = IndexedDataset.open(prefix), IndexedDataset.open(prefix.with_name("merged"))
    assert one.lengths.tolist() == other.lengths.tolist()
    for sequence in range(len(one)):
        assert one.tokens(sequence).tobytes() == other.tokens(sequence).tobytes()


def counted(prefix: Path) -> None:
    assert stats(prefix).num_tokens == IndexedDataset.open(prefix).num_tokens


def verified(prefix: Path) -> None:
    verify(prefix, 500)


READERS = (megatron, sequential, permuted, split_and_merged, counted, verified)


@pytest.mark.parametrize("count", [100, pytest.param(2500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", [idx_path, bin_path], ids=["idx", "bin"])
def test_damaged_files(tmp_path: Path, path: Callable[[Path], Path], count: int) -> None:
    prefix, choice = tmp_path / "set", np.random.default_rng(0)
    with IndexedWriter(prefix, np.dtype(np.uint16)) as writer:
        for num_sequences in choice.integers(0, 4, 12):
            for length in choice.integers(0, 40, num_sequences):
                writer.add(choice.integers(0, 500, length))
                writer.end_sequence()
            writer.end_document()
    whole = path(prefix).read_bytes()
    answers = {reader: [0, 0] for reader in READERS}
    for seed in range(count):
        path(prefix).write_bytes(mutate(whole, random.Random(seed), is_index=path is idx_path))
        for reader in READERS:
            try:
                reader(prefix)
                answers[reader][0] += 1
            except InputError:
                answers[reader][1] += 1
    assert all(min(counts) > 0 for counts in answers.values()), answers  # some damage hurts each, some does not
