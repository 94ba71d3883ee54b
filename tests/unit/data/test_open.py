"""From the data section to samples: sources, blends, orders, and what is refused."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.config.data import DataConfig, MegatronHeldOut
from firstlight.data.open import TrainingData, TrainingNeeds, open_held_out, open_training_data
from firstlight.data.samples import Dataset, read_samples
from tests.unit.data.numbered import write

ORDERS = ["megatron", "permuted"]


def opened(
    *sources: dict[str, Any], steps: int = 1, batch: int = 1, vocab_size: int = 10**6, **train: Any
) -> TrainingData:
    section = {"sources": sources, "sequence_length": 4, **train}
    config = DataConfig.model_validate({"train": section, "tokenizer": "tokenizer.json"})
    needs = TrainingNeeds(num_samples=steps * batch, seed=3, vocab_size=vocab_size)
    return open_training_data(config, needs)


def samples(dataset: Dataset, count: int | None = None) -> list[NDArray[np.int32]]:
    read = read_samples(dataset, np.arange(len(dataset) if count is None else count))
    assert (read.num_real == dataset.sequence_length + 1).all()
    return list(read.tokens)


@pytest.mark.parametrize("order", ORDERS)
def test_training_data_covers_the_steps(tmp_path: Path, order: str) -> None:
    write(tmp_path / "set", [9, 3, 8])
    dataset = opened({"path": tmp_path / "set"}, steps=7, batch=4, order=order).dataset
    assert len(dataset) >= 28
    assert len(samples(dataset)[0]) == 5


def test_a_kept_order_gives_the_same_samples(tmp_path: Path) -> None:
    write(tmp_path / "set", [9, 3, 8])
    expected = samples(opened({"path": tmp_path / "set"}, steps=7, batch=4).dataset)
    for _ in range(2):
        found = opened({"path": tmp_path / "set"}, steps=7, batch=4, index_cache=tmp_path / "cache")
        np.testing.assert_array_equal(samples(found.dataset), expected)
        assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_only_the_first_share_is_trained_on(tmp_path: Path, order: str) -> None:
    write(tmp_path / "set", [10] * 10)
    dataset = opened({"path": tmp_path / "set"}, steps=20, batch=2, order=order, split="80,10,10").dataset
    largest = max(int(sample.max()) for sample in samples(dataset))
    assert largest == (79 if order == "megatron" else 76)  # permuted: the rest of the last sample is left out


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("split", ["1,0,0", "1,99,0"])
def test_training_data_shorter_than_a_sample_is_refused(tmp_path: Path, split: str, order: str) -> None:
    write(tmp_path / "set", [3])
    with pytest.raises(InputError, match="needs 5"):
        opened({"path": tmp_path / "set"}, split=split, order=order)
    with pytest.raises(InputError, match="has 3 tokens, but one sample of sequence_length 4 needs 5"):
        open_held_out(MegatronHeldOut(name="x", path=tmp_path / "set"), 4)


@pytest.mark.parametrize("order", ORDERS)
def test_values_that_are_no_ids_are_refused(tmp_path: Path, order: str) -> None:
    write(tmp_path / "set", [9], "float32")
    with pytest.raises(InputError, match="float32 values, not token ids"):
        opened({"path": tmp_path / "set"}, order=order)


@pytest.mark.parametrize("order", ORDERS)
def test_an_id_outside_of_the_vocabulary_names_its_source(tmp_path: Path, order: str) -> None:
    write(tmp_path / "small", [40])
    write(tmp_path / "large", [40], first=1000)
    sources = ({"path": tmp_path / "small"}, {"path": tmp_path / "large"})
    with pytest.raises(
        InputError, match=r"sample \d of .*large holds the token id 10\d\d, but model.vocab_size is 500"
    ):
        samples(opened(*sources, steps=4, vocab_size=500, order=order).dataset)


@pytest.mark.parametrize("order", ORDERS)
def test_sources_are_mixed_by_weight(tmp_path: Path, order: str) -> None:
    write(tmp_path / "a", [30, 11])
    write(tmp_path / "b", [50, 31], first=1000)
    sources = ({"path": tmp_path / "a", "weight": 3}, {"path": tmp_path / "b", "weight": 1.0})
    dataset = opened(*sources, steps=10, batch=4, order=order).dataset
    assert len(dataset) == 40
    assert Counter(int(sample[0]) // 1000 for sample in samples(dataset)) == {0: 30, 1: 10}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_samples", [1, 2, 5, 7, 100])
def test_blends_of_many_sources_never_run_out(tmp_path: Path, order: str, num_samples: int) -> None:
    sources = []
    for number in range(12):
        write(tmp_path / f"{number}", [5 + number], first=1000 * number)
        sources.append({"path": tmp_path / f"{number}", "weight": 0.1 + number * number})
    assert len(samples(opened(*sources, steps=num_samples, order=order).dataset)) == num_samples


def test_the_log_says_what_the_run_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a", [41])
    write(tmp_path / "b", [2000])
    logger = get_logger()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, logger.name):
            opened({"path": tmp_path / "a", "weight": 3}, {"path": tmp_path / "b"}, steps=40)
    finally:
        logger.removeHandler(caplog.handler)
    lines = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert lines[0].startswith("training data: 2 sources, order megatron (")
    assert lines[1] == f"  {tmp_path}/a: 41 tokens, weight 0.75; the run reads 30 samples, 2.93 epochs"
    assert lines[2] == f"  {tmp_path}/b: 2,000 tokens, weight 0.25; the run reads 10 samples, 0.02 epochs"


def test_the_fingerprint_tells_sources_weights_and_order(tmp_path: Path) -> None:
    a, b = ({"path": write(tmp_path / name, [41 + number]).prefix} for number, name in enumerate("ab"))
    heavier = {**a, "weight": 2}
    marks = [
        opened(*sources, order=order).fingerprint
        for sources in ((a,), (b,), (a, b), (b, a), (heavier, b))
        for order in ORDERS
    ]
    assert len(set(marks)) == len(marks)
    assert opened(heavier).fingerprint == marks[0]
    assert opened(heavier, {**b, "weight": 2}).fingerprint == opened(a, b).fingerprint


@pytest.mark.parametrize("order", ["packed", "sequential"])
def test_other_orders_cover_the_steps(tmp_path: Path, order: str) -> None:
    write(tmp_path / "set", [5] * 10)
    dataset = opened({"path": tmp_path / "set"}, steps=7, batch=4, order=order).dataset
    read = samples(dataset, 28)
    assert len(dataset) >= 28
    if order == "sequential":
        assert [int(sample[0]) for sample in read[:13]] == [*range(0, 48, 4), 0]
    else:
        assert sorted(int(sample[0]) for sample in read[:10]) == list(range(0, 50, 5))


def test_sources_without_weights_are_read_equally_often(tmp_path: Path) -> None:
    write(tmp_path / "a", [41])
    write(tmp_path / "b", [121], first=1000)
    sources = ({"path": tmp_path / "a", "weight": None}, {"path": tmp_path / "b", "weight": None})
    read = samples(opened(*sources, steps=40).dataset, 40)
    assert Counter(int(sample[0]) >= 1000 for sample in read) == {False: 10, True: 30}
    with pytest.raises(ValueError, match="give every one a weight, or null to every one"):
        opened(sources[0], {"path": tmp_path / "b"})


def test_a_share_of_a_set_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "set", [5] * 10)
    held_out = MegatronHeldOut(name="x", path=tmp_path / "set", split="60,20,20", share="test")
    assert [int(sample[0]) for sample in samples(open_held_out(held_out, 4))] == [40, 44]
