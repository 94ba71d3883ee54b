"""Memory of ranks: the arithmetic of `layout/`, micro-batches in flight, and what is refused."""

import pytest

from firstlight.base.errors import InputError
from firstlight.config.pipeline import PipelineConfig
from firstlight.config.recompute import FullRecompute, LayerRange, OffloadConfig
from firstlight.layout.memory import state_of_rank, units_of
from firstlight.layout.mesh import Layout
from firstlight.plan.fit import require_memory
from firstlight.plan.forecast import forecast
from firstlight.plan.hardware import Hardware, read_hardware
from firstlight.plan.memory import bytes_of_layer, memory_of_places
from tests.unit.plan.planned import small_work

H100 = read_hardware("h100")
NO_OFFLOAD = OffloadConfig()


def with_memory(size: float) -> Hardware:
    memory = H100.memory_bytes.model_copy(update={"value": size})
    reserve = H100.reserve_bytes.model_copy(update={"value": 0.0})
    return H100.model_copy(update={"memory_bytes": memory, "reserve_bytes": reserve})


@pytest.mark.parametrize(
    ("layout", "schedule"),
    [
        (Layout(dp_shard=4), "1f1b"),
        (Layout(dp_shard=4, ep=2, tp=2), "1f1b"),
        (Layout(pp=2, dp_shard=2, ep=2), "1f1b"),
        (Layout(pp=4, dp_shard=2), "dualpipe_v"),
        (Layout(pp=2, dp_replicate=2, dp_shard=2, sharded="optimizer"), "interleaved_1f1b"),
    ],
    ids=str,
)
def test_state_is_that_of_the_layout(layout: Layout, schedule: str) -> None:
    pipeline = PipelineConfig(schedule=schedule)  # type: ignore[arg-type]
    work = small_work(layout, pipeline)
    for place, memory in enumerate(memory_of_places(work, H100, work.orders)):
        stages = [work.stages[index] for index in work.places_of(place)]
        state = state_of_rank(work.model, layout, place * layout.stage_size, stages, kept=work.kept)
        assert (memory.parameters, memory.moments) == (state.parameters, state.moments)
        whole = sum(units_of(work.model, layout, stage).whole for stage in stages)
        keeps_whole = layout.pp > 1 or layout.sharded != "all"
        assert (memory.gradients >= 4 * whole) if keeps_whole else (memory.gradients == state.gradients)


def test_activations_grow_with_the_micro_batches_in_flight() -> None:
    """With gpipe all of them, with 1f1b as many as there are ranks from here to the last."""
    model_layers = {"layout": Layout(pp=4), "micro_batches": 16}
    held = {
        name: [one.activations for one in memory_of_places(work, H100, work.orders)]
        for name in ("gpipe", "1f1b")
        for work in [small_work(pipeline=PipelineConfig(schedule=name), **model_layers)]  # type: ignore[arg-type]
    }
    assert [all_ / few for all_, few in zip(held["gpipe"], held["1f1b"], strict=True)] == [4, 16 / 3, 8, 16]


def test_recomputation_and_offload_leave_less() -> None:
    kept = small_work()
    again = small_work(recompute=FullRecompute())
    moved = OffloadConfig(activations=LayerRange(), optimizer_state="host")
    plain, repeated = (memory_of_places(work, H100, work.orders)[0] for work in (kept, again))
    away = memory_of_places(kept, H100, kept.orders, moved)[0]
    assert bytes_of_layer(again, 3) == kept.portion.positions * kept.model.hidden_size * 4
    assert repeated.activations < plain.activations
    assert away.activations < repeated.activations
    assert (plain.moments, away.moments) == (2 * plain.gradients, 0)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    work = small_work(Layout(dp_shard=8))
    plan = forecast(work, H100)
    needed = max(one.total for one in plan.memory) - H100.reserve_bytes.value
    plan = forecast(work, with_memory(needed - 1))
    with pytest.raises(InputError) as caught:
        require_memory(plan, NO_OFFLOAD)
    message = str(caught.value)
    assert "place 0 of the pipeline needs" in message
    assert "recompute.kind selective" in message
    assert "offload.optimizer_state host" in message
    require_memory(forecast(work, with_memory(needed)), NO_OFFLOAD)


def test_where_nothing_helps_more_ranks_are_asked_for() -> None:
    plan = forecast(small_work(), with_memory(1000))
    with pytest.raises(InputError, match="use more ranks"):
        require_memory(plan, NO_OFFLOAD)
