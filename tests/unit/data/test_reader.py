"""Reading ahead, on a thread or in processes that are killed, gives what reading at once gives."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.base.errors import FirstlightError
from firstlight.config.data import DataConfig
from firstlight.config.timeline import Timeline
from firstlight.data.avoided import Ranges
from firstlight.data.cut import PhaseNeeds
from firstlight.data.open import TrainingNeeds, open_training_data
from firstlight.data.reader import Reader, ThreadReader
from firstlight.data.stream import TokenStream
from firstlight.data.worker import Assignment
from firstlight.data.worker_reader import WorkerReader
from tests.unit.data.numbered import write

LATER = (
    PhaseNeeds(num_samples=3 * 4, sequence_length=4, weights=(0, 1)),
    PhaseNeeds(num_samples=4 * 4, sequence_length=4, weights=(1, 1)),
)
NEEDS = TrainingNeeds(num_samples=5 * 4, later=LATER, seed=3, vocab_size=10**6)


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    write(tmp_path / "a", [30, 11, 60])
    write(tmp_path / "b", [50, 31], first=1000)
    sources = [{"path": tmp_path / "a", "weight": 2}, {"path": tmp_path / "b"}]
    train = {"sources": sources, "sequence_length": 4}
    return DataConfig.model_validate({"train": train, "tokenizer": "tokenizer.json"})


def stream(
    config: DataConfig, reader: Reader | None = None, needs: TrainingNeeds = NEEDS, avoided: Ranges = ()
) -> TokenStream:
    dataset = open_training_data(config, needs).dataset
    return TokenStream(
        dataset,
        timeline=Timeline.even(batch_size=4),
        micro_batch_size=2,
        data_rank=0,
        data_size=1,
        reader=reader,
        avoided=avoided,
    )


def rest(read: TokenStream) -> list[list[list[int]]]:
    batches = []
    while True:
        try:
            batch = next(read)
        except FirstlightError as error:
            if "exhausted" not in str(error):
                raise
            return batches
        batches.append(batch.tokens.tolist())


def test_reading_ahead_gives_the_same(config: DataConfig) -> None:
    expected = rest(stream(config))
    assert len(expected) == 12
    read = stream(config, ThreadReader(open_training_data(config, NEEDS).dataset, 3))
    assert rest(read) == expected
    read.close()


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("stop", [1, 5, 6, 11])
def test_a_saved_position_is_of_what_was_consumed(config: DataConfig, depth: int, stop: int) -> None:
    """Not of what was read ahead; and it names how much of each source was read."""
    expected = rest(stream(config))

    def opened() -> TokenStream:
        return stream(config, ThreadReader(open_training_data(config, NEEDS).dataset, depth))

    first, second = opened(), opened()
    for _ in range(stop):
        next(first)
    state: dict[str, Any] = json.loads(json.dumps(first.state_dict()))
    assert sum(state["position"]["consumed_by_source"]) == state["consumed_samples"] == 4 * stop
    second.load_state_dict(state)
    assert rest(second) == rest(first) == expected[stop:]
    first.close()
    second.close()


def test_weights_change_at_their_steps(config: DataConfig) -> None:
    shares = [np.mean([token[0] >= 1000 for token in batch]) for batch in rest(stream(config))]
    assert shares[5:8] == [1.0, 1.0, 1.0]
    assert np.mean(shares[:5]) == pytest.approx(1 / 3, abs=0.05)
    assert np.mean(shares[8:]) == pytest.approx(1 / 2)


@pytest.mark.parametrize("depth", [0, 2])
def test_avoided_samples_are_left_out_and_the_order_stays(config: DataConfig, depth: int) -> None:
    numbers = [row for batch in rest(stream(config)) for row in batch]
    read = stream(config, ThreadReader(open_training_data(config, NEEDS).dataset, depth))
    kept = next(read).tokens.tolist()
    read.avoid(range(6, 11), "a test")
    read.avoid(range(10, 13), "a test")
    state = read.state_dict()
    left = numbers[:6] + numbers[13:]
    seen = [row for batch in rest(read) for row in batch]
    assert kept == numbers[:4]
    assert seen == left[4:] + left[:7], "there are as many batches, so the first samples come once more"
    resumed = stream(config)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert [row for batch in rest(resumed) for row in batch] == seen
    read.close()


def test_an_earlier_position_goes_on_without_what_is_left_out_since(config: DataConfig) -> None:
    read = stream(config)
    next(read)
    before = read.state_dict()
    rows = [row for _ in range(3) for row in next(read).tokens.tolist()]
    assert read.numbers_between(4, 12) == range(4, 12)
    after = read.state_dict()
    read.load_state_dict(before)
    read.avoid(range(6, 10), "a test")
    assert read.refusal(before) is None
    assert read.refusal(after) == "it has seen the samples from 6 to 9, which this run leaves out"
    assert next(read).tokens.tolist() == rows[:2] + rows[6:8]
    assert read.refusal(read.state_dict()) is None
    again = stream(config, avoided=((6, 10),))
    again.load_state_dict(before)
    assert next(again).tokens.tolist() == rows[:2] + rows[6:8]


def test_what_is_consumed_cannot_be_avoided(config: DataConfig) -> None:
    read = stream(config)
    next(read)
    with pytest.raises(ValueError, match="the next one is 4"):
        read.avoid(range(3, 9), "a test")


def test_workers_that_are_killed_are_started_again_in_order(config: DataConfig) -> None:
    expected = rest(stream(config))
    reader = WorkerReader(Assignment(config=config, needs=NEEDS), 2)
    read = stream(config, reader)
    batches = [next(read).tokens.tolist() for _ in range(3)]
    state = read.state_dict()
    for worker in reader._workers:
        os.kill(worker._process.pid, signal.SIGKILL)
    batches += rest(read)
    assert batches == expected
    read.load_state_dict(state)
    os.kill(reader._workers[1]._process.pid, signal.SIGKILL)
    assert rest(read) == expected[3:]
    processes = [worker._process for worker in reader._workers]
    read.close()
    assert [process.poll() for process in processes] == [0, 0]


def test_a_worker_that_cannot_read_says_why(config: DataConfig) -> None:
    needs = TrainingNeeds(num_samples=12 * 4, seed=3, vocab_size=500)
    read = stream(config, WorkerReader(Assignment(config=config, needs=needs), 1))
    with pytest.raises(FirstlightError, match="model.vocab_size is 500"):
        rest(read)
    read.close()


def test_a_worker_that_never_starts_ends_the_run(config: DataConfig, tmp_path: Path) -> None:
    read = stream(config, WorkerReader(Assignment(config=config, needs=NEEDS), 1))
    (tmp_path / "a.idx").unlink()
    os.kill(read._reader._workers[0]._process.pid, signal.SIGKILL)
    with pytest.raises(FirstlightError, match="ended 4 times while reading the same batch"):
        rest(read)
    read.close()
