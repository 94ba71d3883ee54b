"""A ramped, phased and blended run goes on from any step to the bit, and is the same run on any number of ranks."""

from pathlib import Path

import numpy as np
import pytest

from firstlight.checkpoint.manifest import read_manifest
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of
from firstlight.data.stream import TokenStream
from firstlight.train.assemble import open_inputs
from tests.resume.phases import OVERRIDES, STEPS, as_after
from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import config_of, train_here

pytestmark = pytest.mark.slow

FEW, MANY = [8], [1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
"""Interrupted at the ramp's end and in all of it; at the steps where phases begin, before and after them."""
TIMED = ("time", "elapsed_seconds", "step_seconds", "tokens_per_second", "mfu", "memory_bytes", "eta_seconds")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The run, never interrupted."""
    run = make_tiny_run(tmp_path_factory.mktemp("whole") / "run")
    assert train_here(run, *OVERRIDES).step == STEPS
    return run


def figures(run: TinyRun) -> list[dict[str, object]]:
    """What the steps and evaluations say, what depends on the clock aside."""
    return [
        {name: value for name, value in line.items() if name not in TIMED and not name.startswith("seconds/")}
        for line in run.metrics()
    ]


def consumed(config: RunConfig, ranks: int, state: dict[str, object] | None = None) -> list[list[bytes]]:
    """The samples of each step, sorted, as `ranks` ranks read them."""
    streams = [
        TokenStream(
            open_inputs(config).train,
            timeline=timeline_of(config),
            micro_batch_size=2,
            data_rank=rank,
            data_size=ranks,
        )
        for rank in range(ranks)
    ]
    for stream in streams if state else ():
        assert state is not None
        stream.load_state_dict(state)
    steps = []
    first = timeline_of(config).step_at_samples(streams[0].state_dict()["consumed_samples"])
    for _ in range(first, STEPS):
        batches = [next(stream) for stream in streams]
        steps.append(sorted(row.tobytes() for batch in batches for row in batch.tokens))
    return steps


def test_the_run_has_a_ramp_phases_and_uneven_batches(whole: TinyRun) -> None:
    steps = whole.metrics("step")
    assert [line["global_batch_size"] for line in steps] == [4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 16]
    assert {line["sequence_length"] for line in steps} == {128, 512}
    tokens = np.cumsum([line["global_batch_size"] * line["sequence_length"] for line in steps]).tolist()
    assert [line["tokens"] for line in steps] == tokens
    phases = [timeline_of(config_of(whole, *OVERRIDES)).at(step).phase for step in range(STEPS)]
    assert sorted(set(phases)) == [0, 1, 2, 3]


@pytest.mark.parametrize("step", [*FEW, *(pytest.param(step, marks=pytest.mark.slow) for step in MANY)])
def test_goes_on_to_the_bit(whole: TinyRun, tmp_path: Path, step: int) -> None:
    run = as_after(whole, step, tmp_path / "run")
    outcome = train_here(run, *OVERRIDES)
    assert (outcome.first_step, outcome.step) == (step, STEPS)
    there, here = (read_manifest(candidates(one.checkpoints)[0]) for one in (whole, run))
    assert here.files == there.files
    assert here.state == there.state
    assert figures(run) == figures(whole)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_any_number_of_ranks_consumes_the_same_samples(whole: TinyRun, ranks: int) -> None:
    config = config_of(whole, *OVERRIDES)
    alone = consumed(config, 1)
    assert consumed(config, ranks) == alone
    state = read_manifest(whole.checkpoints / "step-00000007").state["data"]
    assert consumed(config, ranks, state) == alone[7:]


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 6, 9])
def test_two_ranks_take_the_same_steps(whole: TinyRun, tmp_path: Path, step: int) -> None:
    """From the start, and from where one rank left off; losses, norms and evaluations are the same."""
    run = as_after(whole, step, tmp_path / "run")
    done = run.train(*OVERRIDES, processes=2)
    assert done.returncode == 0, done.stderr
    for kind in ("step", "evaluation"):
        here = [line for line in run.metrics(kind) if line["step"] > step]
        there = [line for line in whole.metrics(kind) if line["step"] > step]
        assert len(here) == len(there) > 0
        for one, other in zip(here, there, strict=True):
            for name, value in other.items():
                if name.startswith(("loss", "grad_norm", "samples", "tokens", "evaluate")) and "second" not in name:
                    assert one[name] == pytest.approx(value, rel=1e-5), (one["step"], name)
