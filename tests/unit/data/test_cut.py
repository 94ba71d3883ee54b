"""Phases of different sequence lengths: each cut reads its own share of a source, in whole samples, and goes on."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from firstlight.config.data import DataConfig
from firstlight.config.timeline import Stretch, Timeline
from firstlight.data.cut import PhaseNeeds, Share
from firstlight.data.open import TrainingNeeds, open_training_data
from firstlight.data.samples import Dataset, read_samples
from firstlight.data.stream import TokenStream
from firstlight.data.worker import Assignment
from firstlight.data.worker_reader import WorkerReader
from tests.unit.data.numbered import write

ORDERS = ("megatron", "permuted", "packed", "sequential")


def config_of(folder: Path, order: str) -> DataConfig:
    write(folder / "a", [7] * 100)
    write(folder / "b", [9] * 22, first=1000)
    train = {
        "sources": [{"path": folder / "a", "weight": 3}, {"path": folder / "b"}],
        "sequence_length": 4,
        "order": order,
    }
    return DataConfig.model_validate({"train": train, "tokenizer": "tokenizer.json"})


def needs_of(first: int, later: int, weights: tuple[float, ...] | None = None) -> TrainingNeeds:
    phase = PhaseNeeds(num_samples=later, sequence_length=16, weights=weights)
    return TrainingNeeds(num_samples=first, later=(phase,), seed=3, vocab_size=10**6)


def rows(dataset: Dataset, numbers: range, length: int) -> list[list[int]]:
    samples = read_samples(dataset, np.array(numbers), length)
    return [row[:real].tolist() for row, real in zip(samples.tokens, samples.num_real, strict=True)]


@pytest.mark.parametrize("order", ORDERS)
def test_no_token_is_trained_on_twice_within_an_epoch(tmp_path: Path, order: str) -> None:
    """Of 700 and 200 tokens, about 0.75 epochs each; every token is another id, so each label counts for itself."""
    dataset = open_training_data(config_of(tmp_path, order), needs_of(60, 24, (9, 1))).dataset
    seen = Counter(
        token
        for numbers, length in ((range(60), 4), (range(60, 84), 16))
        for row in rows(dataset, numbers, length)
        for token in row[1:]
    )
    assert len(seen) > 400
    assert max(seen.values()) == 1


def test_a_phase_without_a_source_needs_no_sample_of_it(tmp_path: Path) -> None:
    """Source b has no 100 tokens left for a sample of 300, and is not asked for one."""
    config = config_of(tmp_path, "megatron")
    phase = PhaseNeeds(num_samples=2, sequence_length=300, weights=(1, 0))
    needs = TrainingNeeds(num_samples=8, later=(phase,), seed=3, vocab_size=10**6)
    dataset = open_training_data(config, needs).dataset
    assert all(token < 1000 for row in rows(dataset, range(8, 10), 300) for token in row)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stop", range(7))
def test_goes_on_around_the_boundary(tmp_path: Path, order: str, stop: int) -> None:
    """Three batches of 4 short samples, then four of 2 long ones."""
    config, needs = config_of(tmp_path, order), needs_of(12, 8)
    timeline = Timeline(
        stretches=(
            Stretch(steps=3, batch_size=4, sequence_length=4),
            Stretch(steps=4, batch_size=2, sequence_length=16, phase=1),
        )
    )

    def stream() -> TokenStream:
        dataset = open_training_data(config, needs).dataset
        return TokenStream(dataset, timeline=timeline, micro_batch_size=2, data_rank=0, data_size=1)

    first = stream()
    batches = [next(first).tokens.tolist() for _ in range(7)]
    assert [(len(one), len(one[0])) for one in batches] == [(4, 4)] * 3 + [(2, 16)] * 4
    second = stream()
    for _ in range(stop):
        next(second)
    third = stream()
    third.load_state_dict(json.loads(json.dumps(second.state_dict())))
    assert [next(third).tokens.tolist() for _ in range(stop, 7)] == batches[stop:]


def test_workers_read_the_same(tmp_path: Path) -> None:
    config, needs = config_of(tmp_path, "megatron"), needs_of(12, 8, (1, 2))
    timeline = Timeline(
        stretches=(
            Stretch(steps=3, batch_size=4, sequence_length=4),
            Stretch(steps=8, batch_size=1, sequence_length=16, phase=1),
        )
    )
    answers = []
    for reader in (None, WorkerReader(Assignment(config=config, needs=needs), 2)):
        dataset = open_training_data(config, needs).dataset
        # The second of two ranks has no row of the batches of one.
        stream = TokenStream(dataset, timeline=timeline, micro_batch_size=2, data_rank=1, data_size=2, reader=reader)
        answers.append([next(stream).tokens.tolist() for _ in range(11)])
        stream.close()
    assert answers[0] == answers[1]
    assert answers[0][3:] == [[]] * 8


def test_shares_are_whole_documents_by_their_tokens() -> None:
    starts = np.array([0, 50, 60, 70, 80, 90])

    def share(begin: float, end: float, at_least: int = 1) -> range:
        return Share(begin=begin, end=end).of(range(6), starts, 100, at_least=at_least)

    assert [share(0, 0.5), share(0.5, 0.9), share(0.9, 1)] == [range(1), range(1, 5), range(5, 6)]
    assert share(0, 1, 1000) == range(6)
    assert share(0.9, 1, 25) == range(3, 6), "too small a share reads what is before it, too"
    assert share(0, 0.001, 60) == range(2)
