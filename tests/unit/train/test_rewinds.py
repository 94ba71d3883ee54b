"""A run with trouble that lasts goes back, leaves out the samples of the bad steps, and ends as one without them."""

import json
import shutil
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from firstlight.base.errors import InputError
from firstlight.base.peers import Alone
from firstlight.checkpoint.manifest import read_manifest
from firstlight.checkpoint.step_folder import candidates
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.observe.events import read_events
from firstlight.train.avoided_samples import read_avoided
from firstlight.train.loop import Outcome
from tests.runs import SEQUENCE_LENGTH, TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here

STEPS = 11
RUN = (f"training.steps={STEPS}", "resilience.max_skipped_steps=3", "checkpoint.keep_last=1")
BAD = "resilience.inject=[" + ", ".join(f"{{kind: not_finite, step: {step}}}" for step in (6, 7, 8)) + "]"


def weights(run: TinyRun) -> dict[str, bytes]:
    newest = candidates(run.checkpoints)[0]
    assert newest.name == f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


@pytest.fixture(scope="module")
def rewound(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = make_tiny_run(tmp_path_factory.mktemp("rewound") / "run")
    assert train_here(run, *RUN, BAD) == Outcome(first_step=0, step=STEPS, reason="all steps are done")
    return run


def test_it_goes_back_to_before_the_first_bad_step(rewound: TinyRun) -> None:
    """Though steps 6 and 8 were due and one checkpoint is kept: neither is one to go back to."""
    (event,) = (one for one in read_events(rewound.output / "events.jsonl") if one.kind == "rewind")
    assert event.step == 8
    assert event.text.startswith("to step 4, without samples 20 to 31: step 8: gradient norm is nan")
    assert event.facts == {"to_step": 4, "first_sample": 20, "end_sample": 32}
    assert [line["step"] for line in rewound.metrics("step")] == list(range(1, STEPS + 1))
    assert rewound.metrics("step")[-1]["samples"] == 4 * STEPS
    lines = [json.loads(line) for line in (rewound.output / "faults.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["rewind", "rewound"]
    assert lines[1]["steps_lost"] == 4


def test_it_ends_as_a_run_that_never_saw_the_samples(rewound: TinyRun, tmp_path: Path) -> None:
    clean = make_tiny_run(tmp_path / "clean")
    clean.output.mkdir()
    shutil.copy(rewound.output / "avoided-samples.jsonl", clean.output)
    train_here(clean, *RUN)
    assert weights(clean) == weights(rewound)
    other = make_tiny_run(tmp_path / "other")
    train_here(other, *RUN)
    assert weights(other) != weights(rewound)


def test_a_checkpoint_of_before_the_rewind_is_passed_over(
    rewound: TinyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one is there when the machine goes down in the middle of a rewind."""
    old, run = make_tiny_run(tmp_path / "old"), TinyRun(folder=tmp_path / "run")
    train_here(old, *RUN, "checkpoint.keep_last=9", "training.stop_at_step=10")
    shutil.copytree(rewound.folder, run.folder)
    shutil.rmtree(run.checkpoints)
    shutil.copytree(old.checkpoints, run.checkpoints)
    assert train_here(run, *RUN).first_step == 4
    assert "it has seen the samples from 20 to 31, which this run leaves out" in caplog.text
    assert weights(run) == weights(rewound)
    assert read_manifest(candidates(run.checkpoints)[0]).state["data"]["avoided"] == [[20, 32]]


def test_rewinds_have_a_budget(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    outcome = train_here(run, *RUN, BAD, "resilience.rewind.times=0")
    assert (outcome.exit_code, outcome.step) == (1, 8)
    assert outcome.reason.endswith("3 times in a row (resilience.max_skipped_steps)")


def test_a_used_up_budget_ends_the_run(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    bad = ", ".join(f"{{kind: not_finite, step: {step}}}" for step in range(6, 12))
    outcome = train_here(run, *RUN, f"resilience.inject=[{bad}]", "resilience.rewind.times=1")
    assert (outcome.exit_code, outcome.step) == (1, 11)
    assert outcome.reason.endswith("; 1 rewinds are used up (resilience.rewind.times)")
    identity = (run.output / "identity").read_text().strip()
    assert read_avoided(run.output / "avoided-samples.jsonl", identity, Alone()).num_rewinds == 1
    assert read_avoided(run.output / "avoided-samples.jsonl", "another", Alone()).num_rewinds == 0


def test_without_a_checkpoint_it_stops_with_its_state(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    outcome = train_here(run, *RUN, BAD, "checkpoint.save_every_steps=0")
    assert (outcome.exit_code, outcome.step) == (1, 8)
    assert outcome.reason.endswith("it cannot rewind: there is no healthy checkpoint from before step 6")
    assert candidates(run.checkpoints)[0].name == "step-00000008"


def test_copies_of_later_steps_go_too(tmp_path: Path) -> None:
    """Else a start would bring them back. The run ends before it has saved step 6 again."""
    pytest.importorskip("fsspec")
    run = make_tiny_run(tmp_path)
    copies = f"checkpoint.copy_to=file://{tmp_path}/copies"
    train_here(run, *RUN, BAD, copies, "checkpoint.keep_last=9", "training.stop_at_step=5")
    assert sorted(path.name for path in (tmp_path / "copies").iterdir())[-1] == "step-00000005"
    bad = BAD.replace("}]", "}, {kind: raise, step: 5}]")
    with pytest.raises(RuntimeError, match="a planted fault of rank 0 in step 5"):
        train_here(run, *RUN, bad, copies, "checkpoint.keep_last=9", "resilience.rewind.steps_before=1")
    assert [path.name for path in candidates(run.checkpoints)] == ["step-00000004", "step-00000002"]
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["step-00000002", "step-00000004"]


def test_margins(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    margins = "resilience.rewind={steps_before: 2, steps_after: 1}"
    assert train_here(run, *RUN, BAD, margins, "checkpoint.keep_last=3").exit_code == 0
    (event,) = (one for one in read_events(run.output / "events.jsonl") if one.kind == "rewind")
    assert event.facts == {"to_step": 2, "first_sample": 12, "end_sample": 36}


NOISE = range(41, 49)
"""Steps whose samples, if they are poisoned, are chance tokens that no other sample has."""


def run_in_order(folder: Path, *, is_poisoned: bool) -> TinyRun:
    """Samples that count in a small circle, most of the time, in the order of the file."""
    run = make_tiny_run(folder)
    source = np.random.default_rng(0)
    with IndexedWriter(folder / "data" / "ordered", np.dtype("int32")) as writer:
        for sample in range(4 * 75):
            counted = (sample + np.arange(SEQUENCE_LENGTH)) % 7 + 10
            chance = source.integers(10, 30, SEQUENCE_LENGTH)
            tokens = np.where(source.random(SEQUENCE_LENGTH) < 0.7, chance, counted)
            if is_poisoned and sample // 4 + 1 in NOISE:
                tokens = source.integers(100, 300, SEQUENCE_LENGTH)
            writer.add(tokens.astype(np.int32))
            writer.end_sequence()
            writer.end_document()
    return run


def test_a_window_of_poisoned_data_is_left_out(tmp_path: Path) -> None:
    """Three times the usual loss, for eight steps."""
    overrides = (
        "data.train.sources=[{path: data/ordered}]",
        "data.train.order=sequential",
        "data.evaluate=[]",
        "training.steps=60",
        "optimizer.learning_rate=3e-3",
        "checkpoint.save_every_steps=10",
        "resilience.rewind={steps_after: 6, spike: {window: 16, for_steps: 3}}",
    )
    losses = {}
    for name in ("clean", "poisoned"):
        run = run_in_order(tmp_path / name, is_poisoned=name == "poisoned")
        assert train_here(run, *overrides).exit_code == 0
        losses[name] = mean(line["loss/lm"] for line in run.metrics("step")[-10:])
    (event,) = (one for one in read_events(run.output / "events.jsonl") if one.kind == "rewind")
    assert event.facts == {"to_step": 40, "first_sample": 160, "end_sample": 196}
    assert losses["poisoned"] == pytest.approx(losses["clean"], rel=0.02)


def test_a_line_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "avoided-samples.jsonl"
    file.write_text('{"first": 3}\n')
    with pytest.raises(InputError, match=r"avoided-samples\.jsonl:1 is no line"):
        read_avoided(file, "me", Alone())
