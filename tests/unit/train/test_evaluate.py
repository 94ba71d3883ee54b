"""The held-out loss is the mean over the chosen samples, whatever the batch size and the number of ranks."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from firstlight.base.peers import Alone
from firstlight.base.report import EvalReport
from firstlight.data.samples import Samples, require_numbers
from firstlight.data.stream import Batch
from firstlight.train.evaluate import EvaluationPlan, Evaluator, HeldOutSet, Portion
from tests.unit.resilience.peers import on_ranks

LENGTH = 4


class Squares:
    """Sample k is k, k + 1, ...; every third one has a token less."""

    sequence_length = LENGTH

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        require_numbers(numbers, self.size, "the squares")
        out.tokens[rows] = numbers[:, None] + np.arange(LENGTH + 1)
        out.num_real[rows] = np.where(numbers % 3 == 0, LENGTH, LENGTH + 1)


@dataclass
class CountingEngine:
    """The loss of a token is its label squared."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)

    def evaluate(self, batch: Batch) -> tuple[float, float]:
        self.shapes.append(batch.tokens.shape)
        rows = batch.loss_mask.any(axis=1)
        self.samples += batch.tokens[rows, 0].tolist()
        assert (batch.labels[rows] == batch.tokens[rows] + 1).all()
        return float((batch.labels**2 * batch.loss_mask).sum()), float(batch.loss_mask.sum())


def evaluator(
    engine: CountingEngine, *, size: int = 20, most: int = 100, batch_size: int = 2, mine: Portion | None = None
) -> Evaluator:
    plan = EvaluationPlan(every_steps=0, last_step=7, max_samples=most, batch_size=batch_size)
    held_out = HeldOutSet(name="squares", datasets=[Squares(size)], bytes_per_token=3.5)
    return Evaluator(engine, [held_out], plan, mine or Portion(peers=Alone()))  # type: ignore[arg-type]


def expected(chosen: list[int]) -> EvalReport:
    labels = [k + place for k in chosen for place in range(1, LENGTH + (k % 3 != 0))]
    loss = sum(label**2 for label in labels) / len(labels)
    return EvalReport(step=7, name="squares", loss=loss, tokens=len(labels), bytes_per_token=3.5)


def test_the_loss_is_the_mean_over_all_tokens() -> None:
    assert evaluator(CountingEngine()).run(7) == [expected(list(range(20)))]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
@pytest.mark.parametrize("most", [1, 5, 100])
def test_batch_size_and_ranks_change_nothing(ranks: int, batch_size: int, most: int) -> None:
    engines = [CountingEngine() for _ in range(ranks)]
    answers = on_ranks(
        ranks,
        lambda peers: evaluator(
            engines[peers.rank],
            most=most,
            batch_size=batch_size,
            mine=Portion(peers=peers, data_rank=peers.rank, data_size=peers.size),
        ).run(7),
    )
    (alone,) = evaluator(CountingEngine(), most=most).run(7)
    assert answers == [[alone]] * ranks
    assert len({tuple(engine.shapes) for engine in engines}) == 1, "sharded models must run equally often on all ranks"
    assert set(engines[0].shapes) == {(batch_size, LENGTH)}
    dealt = sorted(sample for engine in engines for sample in engine.samples)
    assert len(dealt) == len(set(dealt)) == min(most, 20)


def test_fewer_samples_are_spread_over_the_set() -> None:
    engine = CountingEngine()
    assert evaluator(engine, most=4).run(7) == [expected([0, 5, 10, 15])]
    assert engine.samples == [0, 5, 10, 15]


def test_every_set_has_its_report() -> None:
    sets = [
        HeldOutSet(name=name, datasets=[Squares(size)], bytes_per_token=None) for name, size in (("a", 3), ("b", 5))
    ]
    plan = EvaluationPlan(every_steps=0, last_step=7, max_samples=100, batch_size=2)
    reports = Evaluator(CountingEngine(), sets, plan, Portion(peers=Alone())).run(3)  # type: ignore[arg-type]
    assert [(report.name, report.step) for report in reports] == [("a", 3), ("b", 3)]
    assert [report.tokens for report in reports] == [3 * 4 - 1, 5 * 4 - 2]


def test_a_blend_is_the_mean_of_its_sources_by_their_shares() -> None:
    sets = [
        HeldOutSet(name=f"all/{name}", datasets=[Squares(size)], bytes_per_token=size)
        for name, size in (("a", 3), ("b", 5))
    ]
    blends = {"all": {"all/a": 0.75, "all/b": 0.25}}
    plan = EvaluationPlan(every_steps=0, last_step=7, max_samples=100, batch_size=2, blends=blends)
    a, b, whole = Evaluator(CountingEngine(), sets, plan, Portion(peers=Alone())).run(3)  # type: ignore[arg-type]
    assert (a.name, b.name, whole.name) == ("all/a", "all/b", "all")
    assert whole.loss == pytest.approx(0.75 * a.loss + 0.25 * b.loss)
    assert whole.tokens == a.tokens + b.tokens
    assert whole.bytes_per_token == 0.75 * 3 + 0.25 * 5


@pytest.mark.parametrize(("every", "due"), [(0, [6]), (2, [2, 4, 6]), (4, [4, 6]), (6, [6]), (5, [5, 6])])
def test_due_every_so_many_steps_and_after_the_last(every: int, due: list[int]) -> None:
    plan = EvaluationPlan(every_steps=every, last_step=6, max_samples=1, batch_size=1)
    held_out = HeldOutSet(name="a", datasets=[Squares(3)], bytes_per_token=None)
    one = Evaluator(CountingEngine(), [held_out], plan, Portion(peers=Alone()))  # type: ignore[arg-type]
    assert [step for step in range(1, 7) if one.due(step)] == due
    assert not any(Evaluator(CountingEngine(), [], plan, Portion(peers=Alone())).due(step) for step in range(7))  # type: ignore[arg-type]
