"""The plain engine: micro-batches add up to the batch, and the losses are the ones that the definition gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from firstlight.base.report import LossReport
from firstlight.config.timeline import Timeline
from firstlight.data.stream import Batch
from firstlight.layout.mesh import Layout
from firstlight.models.balancing import BiasBalancing
from firstlight.models.decoder import Decoder, LossSums
from firstlight.optim.schedule import number_at
from firstlight.parallel.apply import routers
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.attention_logits import AttentionLogits
from firstlight.parallel.engine import PlainEngine, Work
from firstlight.parallel.losses import Normalizers, RankSums, weigh
from firstlight.parallel.rows import Rows
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, filled, llama, of_family, random_tokens

_EXPERTS = OTHER_FAMILIES["gpt_oss"]["feed_forward"]
GPT_OSS_EXPERTS = {**_EXPERTS, "router": {**_EXPERTS["router"], "balance_loss": 0.5}}
CONFIGS = {
    "deepseek": deepseek(multi_token_prediction={"num_layers": 2}, router={"sequence_balance_loss": 0.5}),
    "deepseek_no_mtp": deepseek(router={"sequence_balance_loss": 0.5}),
    "llama": llama(),
    "z": deepseek(z_loss=0.3, logit_soft_cap=0.5, router={"sequence_balance_loss": 0.5, "z_loss": 0.7}),
    # Balanced by its loss alone; the sums are over sequences, so that micro-batches do not matter.
    "gpt_oss": of_family("gpt_oss", feed_forward=GPT_OSS_EXPERTS),
}
ROWS, LENGTH = 8, 12


def batch() -> Batch:
    """Eight rows; the mask takes from none of a row to all of it, so micro-batches weigh differently."""
    tokens = random_tokens(ROWS, LENGTH + 1).numpy()
    mask = np.ones((ROWS, LENGTH), np.float32)
    mask[0, 3:] = 0
    mask[1, :] = 0
    mask[2, -1] = 0
    mask[5, ::2] = 0
    mask[7, :9] = 0
    return Batch(tokens=tokens[:, :-1], labels=tokens[:, 1:], loss_mask=mask, begins=None, samples=ROWS)


def engine_of(model: Decoder, *, micro_batch_size: int, ranks: int = 1) -> PlainEngine:
    """With `ranks` > 1, as if so many ranks had the same rows."""
    return PlainEngine(model, work_of(model, micro_batch_size=micro_batch_size, ranks=ranks))


def work_of(
    model: Decoder, *, micro_batch_size: int, ranks: int = 1, autocast_dtype: torch.dtype | None = None
) -> Work:
    return Work(
        micro_batch_size=micro_batch_size,
        arithmetic=Arithmetic(product_dtype=autocast_dtype),
        sums=RankSums(layout=Layout(), over_ranks=lambda tensor: tensor * ranks),
        balancing=BiasBalancing(routers(model)),
    )


def step(config: Any, *, micro_batch_size: int, dtype: torch.dtype) -> tuple[LossReport, dict[str, Tensor]]:
    model = filled(config, dtype=dtype)
    report = engine_of(model, micro_batch_size=micro_batch_size).forward_backward(batch())
    return report, gradients(model)


def gradients(model: Decoder) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("micro_batch_size", [4, 2, 1])
def test_micro_batches_add_up_to_the_batch(
    config: Any, dtype: torch.dtype, tolerance: float, micro_batch_size: int
) -> None:
    whole, whole_gradients = step(config, micro_batch_size=ROWS, dtype=torch.float64)
    parts, part_gradients = step(config, micro_batch_size=micro_batch_size, dtype=dtype)
    assert parts.total == pytest.approx(whole.total, rel=tolerance)
    assert parts.parts == pytest.approx(dict(whole.parts), rel=tolerance)
    assert parts.expert_load == pytest.approx(dict(whole.expert_load))
    assert parts.tokens == whole.tokens == int(batch().loss_mask.sum())
    assert part_gradients.keys() == whole_gradients.keys() == dict(filled(config).named_parameters()).keys()
    for name, expected in whole_gradients.items():
        assert (part_gradients[name] - expected).norm() <= tolerance * expected.norm(), name


def observed_router_logits(model: Decoder) -> list[Tensor]:
    """Grows by the logits [b, s, e] of every router that is called."""
    seen: list[Tensor] = []
    for router in routers(model).values():
        router.register_forward_hook(
            lambda router, inputs, _out: seen.append(torch.nn.functional.linear(inputs[0], router.weight))
        )
    return seen


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_are_those_of_the_weighted_means(config: Any) -> None:
    # The objective written once more, from one forward pass over the whole batch.
    model, rows = filled(config, dtype=torch.float64), batch()
    tokens, labels = torch.from_numpy(rows.tokens), torch.from_numpy(rows.labels)
    mask = torch.from_numpy(rows.loss_mask).double()
    router_logits = observed_router_logits(model)
    sums = model(tokens, labels, mask)
    loss = sums.lm / mask.sum()
    expected_parts = {"lm": loss.item()}
    if config.z_loss:
        z = {"router_z": torch.stack([one.logsumexp(-1).square().mean() for one in router_logits])}
        scores = model.logits(tokens)
        z["z"] = (scores.logsumexp(-1).square() * mask).sum() / mask.sum()
        torch.testing.assert_close(
            sums.lm, (torch.nn.functional.cross_entropy(scores.mT, labels, reduction="none") * mask).sum()
        )
        assert scores.abs().max() < config.logit_soft_cap
        loss = loss + config.z_loss * z["z"] + config.feed_forward.router.z_loss * z["router_z"].sum()
        expected_parts |= {name: value.mean().item() for name, value in z.items()}
    if model.mtp:
        ahead = [sums.mtp[depth - 1] / mask[:, depth:].sum() for depth in (1, 2)]
        loss = loss + 0.3 * sum(ahead) / 2
        expected_parts["mtp"] = (sum(ahead) / 2).item()
    if sums.load_me.numel():
        loss = loss + 0.5 * sums.balance / ROWS
        # Reported for one layer: 1 is perfect balance.
        expected_parts["balance"] = (sums.balance / ROWS / len(sums.load_me)).item()
    loss.backward()
    expected = gradients(model)

    other = filled(config, dtype=torch.float64)
    report = engine_of(other, micro_batch_size=2).forward_backward(rows)
    assert report.total == pytest.approx(loss.item(), rel=1e-12)
    assert report.parts == pytest.approx(expected_parts, rel=1e-12)
    for name, gradient in gradients(other).items():
        torch.testing.assert_close(gradient, expected[name])


def test_losses_of_a_rank_are_divided_by_the_counts_of_all_ranks() -> None:
    # Two ranks with the same rows: each adds half of the gradient, and the reported loss is that of one.
    alone, shared = (filled(CONFIGS["deepseek"], dtype=torch.float64) for _ in range(2))
    first = engine_of(alone, micro_batch_size=2).forward_backward(batch())
    second = engine_of(shared, micro_batch_size=2, ranks=2).forward_backward(batch())
    assert second.total == pytest.approx(first.total, rel=1e-12)
    assert second.parts == pytest.approx(dict(first.parts), rel=1e-12)
    assert second.tokens == 2 * first.tokens
    for name, gradient in gradients(shared).items():
        torch.testing.assert_close(2 * gradient, gradients(alone)[name])


def test_load_of_the_whole_batch_moves_the_bias() -> None:
    model = filled(CONFIGS["deepseek"])
    work = work_of(model, micro_batch_size=2)
    engine = PlainEngine(model, work)
    rows = batch()
    loads = model(*(torch.from_numpy(x) for x in (rows.tokens, rows.labels, rows.loss_mask))).load_me.double()
    before = {name: router.bias.clone() for name, router in routers(model).items()}
    report = engine.forward_backward(rows)
    work.balancing.update()
    assert list(routers(model)) == ["layers.1", "layers.2", "mtp.0.block", "mtp.1.block"]
    for load, (name, router) in zip(loads, routers(model).items(), strict=True):
        torch.testing.assert_close(router.bias, before[name] + 0.001 * torch.sign(load.mean() - load).float())
        assert report.expert_load[name] == pytest.approx((load.max() / load.mean() - 1).item())


def test_evaluation_is_the_next_token_loss_of_the_rows() -> None:
    model, rows = filled(CONFIGS["deepseek"], dtype=torch.float64), batch()
    loss, tokens = engine_of(model, micro_batch_size=3).evaluate(rows)
    with torch.no_grad():
        chances = model.logits(torch.from_numpy(rows.tokens)).log_softmax(-1)
    picked = chances.gather(-1, torch.from_numpy(rows.labels).unsqueeze(-1)).squeeze(-1)
    assert loss == pytest.approx(-(picked * torch.from_numpy(rows.loss_mask)).sum().item(), rel=1e-12)
    assert tokens == rows.loss_mask.sum()
    assert not gradients(model)


# The latent norms get bfloat16 with fp32 weights, for which torch has no fused kernel: slower, not wrong.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("name", ["deepseek", "gpt_oss"])
def test_autocast_changes_the_products_and_not_the_parameters(name: str) -> None:
    model = filled(CONFIGS[name])
    engine = PlainEngine(model, work_of(model, micro_batch_size=2, autocast_dtype=torch.bfloat16))
    mixed = engine.forward_backward(batch()).parts["lm"]
    exact = step(CONFIGS[name], micro_batch_size=2, dtype=torch.float32)[0].parts["lm"]
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=2e-2)
    assert {gradient.dtype for gradient in gradients(model).values()} == {torch.float32}


def test_normalizers_count_what_there_is_to_predict() -> None:
    mask = torch.tensor([[1.0, 1, 0, 1], [0.0, 0, 1, 0]])
    rows = Rows(
        tokens=torch.zeros(2, 4, dtype=torch.int64), labels=torch.zeros(2, 4, dtype=torch.int64), mask=mask, begins=None
    )
    counts = Normalizers.of(rows, RankSums(layout=Layout()), depths=2)
    assert (counts.lm, counts.mtp.tolist(), counts.sequences) == (4.0, [3.0, 2.0], 2.0)
    both = Normalizers.of(rows, RankSums(layout=Layout(), over_ranks=lambda tensor: tensor * 3), depths=2)
    assert (both.lm, both.mtp.tolist(), both.sequences) == (12.0, [9.0, 6.0], 6.0)


def test_nothing_to_predict_divides_by_one() -> None:
    rows = Rows(tokens=torch.zeros(1, 4), labels=torch.zeros(1, 4), mask=torch.zeros(1, 4), begins=None)
    counts = Normalizers.of(rows, RankSums(layout=Layout()), depths=1)
    assert (counts.lm, counts.mtp.tolist(), counts.sequences) == (1.0, [1.0], 1.0)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # 12 / 8 + 0.3 * (10 / 5 + 4 / 4) / 2 + 0.5 * 6 / 3
        ("deepseek", 1.5 + 0.45 + 1.0),
        ("deepseek_no_mtp", 1.5 + 1.0),
        ("llama", 1.5),
    ],
)
def test_weighing_is_the_sum_of_weighted_means(config: str, expected: float) -> None:
    sums = LossSums(
        lm=torch.tensor(12.0),
        mtp=torch.tensor([10.0, 4.0]),
        z=torch.tensor(16.0),
        balance=torch.tensor(6.0),
        router_z=torch.tensor(9.0),
        load_me=torch.zeros(4, 8, dtype=torch.int64),
    )
    counts = Normalizers(lm=8.0, mtp=torch.tensor([5.0, 4.0], dtype=torch.float64), sequences=3.0)
    total = weigh(sums, counts, CONFIGS[config])
    assert total.item() == pytest.approx(expected)
    assert total.dtype == torch.float32


def test_weight_of_prediction_ahead_is_that_of_the_step() -> None:
    weight = {"value": 0.5, "schedule": {"type": "piecewise", "pieces": [{"steps": 2, "ratio": 1}], "final_ratio": 0.5}}
    config = deepseek(multi_token_prediction={"num_layers": 2, "loss_weight": weight})
    zero = torch.tensor(0.0)
    sums = LossSums(
        lm=zero, mtp=torch.tensor([10.0, 4.0]), z=zero, balance=zero, router_z=zero, load_me=torch.zeros(4, 8)
    )
    for step, expected in ((0, 0.75), (1, 0.75), (2, 0.375)):
        counts = Normalizers(
            lm=8.0,
            mtp=torch.tensor([5.0, 4.0], dtype=torch.float64),
            sequences=3.0,
            now=lambda number, step=step: number_at(number, Timeline.even(steps=4))(step),
        )
        assert weigh(sums, counts, config).item() == pytest.approx(expected)


def test_micro_batches_are_consecutive_rows() -> None:
    rows = Rows.of(batch(), torch.device("cpu"))
    parts = rows.micro_batches(3)
    assert [part.tokens.shape[0] for part in parts] == [3, 3, 2]
    for field in ("tokens", "labels", "mask"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(rows, field))


class CountedPauses(AttentionLogits):
    pauses = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.pauses += 1
        with super().paused():
            yield


def test_a_micro_batch_that_fills_up_counts_for_nothing() -> None:
    """A rank with fewer rows than another keeps step with it; what it computes then is no one's."""
    found = []
    for count in (None, ROWS // 2 + 1):
        model = filled(CONFIGS["deepseek"], dtype=torch.float64)
        logits = CountedPauses([model], Layout(), 0, over_ranks=lambda tensor: tensor)
        engine = PlainEngine(model, replace(work_of(model, micro_batch_size=2), logits=logits))
        rows = batch()
        found.append((engine.forward_backward(replace(rows, num_micro_batches=count)), gradients(model), logits.pauses))
    (report, grads, pauses), (filled_report, filled_grads, filled_pauses) = found
    assert filled_report == report
    assert (pauses, filled_pauses) == (0, 1), "attention logits of the row that fills up are not taken"
    assert all(torch.equal(filled_grads[name], grads[name]) for name in grads)
