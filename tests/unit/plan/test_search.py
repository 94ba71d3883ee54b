"""The search: its memory is the plan's, what it finds keeps the rules, and pins hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from firstlight.base.errors import InputError
from firstlight.config.load import dump, load
from firstlight.config.pipeline import PipelineConfig
from firstlight.config.recompute import FullRecompute, LayerRange, OffloadConfig, SelectiveRecompute
from firstlight.config.schema import RunConfig
from firstlight.layout.mesh import Layout
from firstlight.plan.candidates import candidates, read_pins
from firstlight.plan.hardware import Hardware, read_hardware
from firstlight.plan.memory import memory_of_places
from firstlight.plan.pieces import Pieces
from firstlight.plan.search import search, why_slower
from tests.unit.models.tiny_model import deepseek, llama
from tests.unit.plan.planned import small_work

H100 = read_hardware("h100")
NO_RESERVE = H100.model_copy(update={"reserve_bytes": H100.reserve_bytes.model_copy(update={"value": 0.0})})
LLAMA = llama(tie_word_embeddings=True, num_hidden_layers=8)


def run_of(**sections: Any) -> RunConfig:
    values = {
        "model": deepseek(multi_token_prediction={}, num_hidden_layers=8).model_dump(mode="json"),
        "data": {"train": {"sources": [{"path": "data"}], "sequence_length": 32}, "tokenizer": "tokenizer.json"},
        "optimizer": {"type": "adamw", "learning_rate": 0.01},
        "training": {"steps": 4, "global_batch_size": 64, "output_folder": "run"},
    }
    return RunConfig.model_validate({**values, **sections})


@pytest.mark.parametrize(
    ("layout", "pipeline", "changes"),
    [
        (Layout(dp_shard=8), {}, {}),
        (Layout(dp_shard=4, ep=4, tp=2), {}, {"recompute": SelectiveRecompute()}),
        (
            Layout(dp_shard=4, sharded="optimizer"),
            {},
            {"recompute": FullRecompute(layers=LayerRange(first=2, every=2))},
        ),
        (Layout(pp=4, dp_shard=2, ep=2), {"schedule": "1f1b"}, {"recompute": FullRecompute()}),
        (Layout(pp=2, dp_shard=2), {"schedule": "interleaved_1f1b"}, {}),
        (Layout(pp=2, cp=2), {"schedule": "interleaved_zero_bubble"}, {}),
        (Layout(pp=4), {"schedule": "zbv_zero_bubble"}, {"model": LLAMA}),
        (Layout(pp=4, dp_replicate=2), {"schedule": "dualpipe_v"}, {"micro_batches": 40}),
        (Layout(pp=4), {"schedule": "gpipe"}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "offload", [OffloadConfig(), OffloadConfig(activations=LayerRange(last=3))], ids=["no", "some"]
)
def test_memory_is_that_of_the_plan(
    layout: Layout, pipeline: dict[str, Any], changes: dict[str, Any], offload: OffloadConfig
) -> None:
    work = small_work(layout, PipelineConfig(**pipeline), **changes)
    pieces = Pieces(offload)
    whole = memory_of_places(work, NO_RESERVE, work.orders, offload)
    for _ in range(2):  # the second time from what is remembered
        for place, memory in enumerate(whole):
            assert pieces.most_bytes(work, [place]) == memory.total, place


def test_what_is_found_is_read_back_and_keeps_the_rules(tmp_path: Path) -> None:
    config = run_of()
    found = search(config, 16, H100, {})
    assert found.num_candidates > 1000
    best = found.best.candidate.of(config)
    path = tmp_path / "best.yaml"
    path.write_text(dump(best))
    loaded = load(path)
    loaded.require_rules(world_size=16)
    assert loaded.config == best
    seconds = [one.seconds for one in found.simulated]
    assert seconds == sorted(seconds)


def test_front_trades_time_for_memory() -> None:
    front = search(run_of(), 16, H100, {"data_parallel_replicate": "1"}).front
    assert len(front) > 1
    assert [one.seconds for one in front] == sorted(one.seconds for one in front)
    assert [one.most_bytes for one in front] == sorted((one.most_bytes for one in front), reverse=True)
    assert why_slower(front[-1], front[0])


def test_pins_hold() -> None:
    pins = read_pins(["parallelism.pipeline_parallel=4", "schedule=dualpipe_v", "recompute=full"])
    for one in search(run_of(), 16, H100, pins).simulated:
        assert one.candidate.parallelism.pipeline_parallel == 4
        assert one.candidate.parallelism.pipeline.schedule == "dualpipe_v"
        assert one.candidate.recompute.kind == "full"


@pytest.mark.parametrize("pins", [["tensor=2"], ["tensor_parallel"], ["tensor_parallel=two"]])
def test_pins_that_mean_nothing_are_refused(pins: Sequence[str]) -> None:
    with pytest.raises(InputError, match="--pin"):
        list(candidates(run_of(), 8, 8, read_pins(pins)))


def test_the_search_refuses_what_fits_nowhere() -> None:
    memory = H100.memory_bytes.model_copy(update={"value": H100.reserve_bytes.value + 1000})
    small: Hardware = H100.model_copy(update={"memory_bytes": memory})
    with pytest.raises(InputError, match="none of .* layouts"):
        search(run_of(), 8, small, {})


def test_the_best_is_no_slower_than_a_layout_that_was_left_to_it() -> None:
    """A pinned search looks at less and so finds nothing faster."""
    free, pinned = (search(run_of(), 8, H100, pins) for pins in ({}, {"tensor_parallel": "4"}))
    assert free.best.seconds <= pinned.best.seconds
