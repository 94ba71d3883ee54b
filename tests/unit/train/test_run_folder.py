"""A run's folder is its own: continued by the same run, refused to others, with what differs."""

import base64
import json
import os
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.config.load import load
from firstlight.config.schema import RunConfig
from firstlight.data.tokenizer import load_tokenizer
from firstlight.train.run_folder import RunFolder, open_run
from tests.runs import TINY_YAML

FREE = (
    "parallelism.data_parallel_shard=1",
    "recompute.kind=full",
    "checkpoint.keep_last=7",
    "resilience.on_not_finite=stop",
    "monitor.log_every_steps=3",
    "data.evaluate=[]",
    "data.train.sources.0.path=/elsewhere/tiny_text_document",
    "training.micro_batch_size=1",
    "training.evaluate_every_steps=2",
    "training.evaluate_samples=9",
    "training.output_folder=/elsewhere/out",
    "training.deterministic=true",
)
HELD = (
    ("training.steps=5", "training.steps: 4 there, 5 here"),
    ("training.seed=1", "training.seed: 42 there, 1 here"),
    ("training.global_batch_size=8", "training.global_batch_size: 4 there, 8 here"),
    ("optimizer.learning_rate=0.5", "optimizer.learning_rate: 0.001 there, 0.5 here"),
    ("optimizer.betas=[0.9, 0.9]", "optimizer.betas: [0.9, 0.95] there, [0.9, 0.9] here"),
    ("lr_scheduler={type: constant, warmup_steps: 1}", "lr_scheduler.warmup_steps: 0 there, 1 here"),
    ("model.hidden_size=64", "model.hidden_size: 32 there, 64 here"),
    ("model.feed_forward.router.n_group=2", "model.feed_forward.router.n_group: 1 there, 2 here"),
    ("data.train.sequence_length=16", "data.train.sequence_length: 32 there, 16 here"),
    ("data.train.split='9,1,0'", "data.train.split: '1,0,0' there, '9,1,0' here"),
    ("data.train.mask_after_end_of_document=true", "data.train.mask_after_end_of_document: False there, True here"),
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(path=tmp_path / "deep" / "out")


def config(tmp_path: Path, *overrides: str) -> RunConfig:
    (tmp_path / "run.yaml").write_text(TINY_YAML)
    (tmp_path / "tokenizer.json").write_text("{}")
    return load(tmp_path / "run.yaml", [f"data.tokenizer={tmp_path / 'tokenizer.json'}", *overrides]).config


def test_logs_of_a_launcher_are_no_reason_to_refuse_a_folder(tmp_path: Path, folder: RunFolder) -> None:
    for name in ("msrun_log", "log/rank_0"):
        (folder.path / name).mkdir(parents=True)
        (folder.path / name / "worker_0.log").write_text("")
    folder.claim(config(tmp_path))
    assert open_run(folder.path)[0] == folder


def test_a_folder_with_more_than_logs_is_refused(tmp_path: Path, folder: RunFolder) -> None:
    (folder.path / "thesis").mkdir(parents=True)
    (folder.path / "thesis" / "chapter.txt").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        folder.claim(config(tmp_path))


def test_a_new_folder_is_made_and_holds_the_run(tmp_path: Path, folder: RunFolder) -> None:
    folder.claim(config(tmp_path))
    assert open_run(folder.path) == (folder, config(tmp_path))
    assert folder.tokenizer.read_text() == "{}"
    assert {path.name for path in folder.path.iterdir()} == {"config.yaml", "tokenizer.json", "identity"}


def test_an_empty_folder_may_be_claimed(tmp_path: Path, folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.claim(config(tmp_path))
    assert folder.configuration.exists()


def test_the_tokenizer_of_a_folder_is_taken(tmp_path: Path, folder: RunFolder) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"a": 1}')
    folder.claim(config(tmp_path, f"data.tokenizer={tmp_path / 'tokenizer'}"))
    assert folder.tokenizer.read_text() == '{"a": 1}'


def test_a_run_may_use_the_tokenizer_of_its_folder(tmp_path: Path, folder: RunFolder) -> None:
    folder.claim(config(tmp_path))
    folder.claim(config(tmp_path, f"data.tokenizer={folder.tokenizer}"))
    assert folder.tokenizer.read_text() == "{}"


@pytest.mark.parametrize("override", ["", *FREE])
def test_the_same_run_may_go_on(tmp_path: Path, folder: RunFolder, override: str) -> None:
    folder.claim(config(tmp_path))
    later = config(tmp_path, *([override] if override else []))
    folder.claim(later)
    assert open_run(folder.path)[1] == later


@pytest.mark.parametrize(("override", "difference"), HELD)
def test_another_run_is_told_what_differs(tmp_path: Path, folder: RunFolder, override: str, difference: str) -> None:
    folder.claim(config(tmp_path))
    before = folder.configuration.read_bytes()
    with pytest.raises(InputError) as caught:
        folder.claim(config(tmp_path, override))
    assert str(caught.value) == (
        f"{folder.path} holds another run, which differs in:\n  {difference}\n"
        "Use another training.output_folder, or the configuration that the run was started with, "
        "or --accept-change with the name of each"
    )
    assert folder.configuration.read_bytes() == before


def test_all_differences_are_listed(tmp_path: Path, folder: RunFolder) -> None:
    folder.claim(config(tmp_path))
    with pytest.raises(InputError) as caught:
        folder.claim(config(tmp_path, *(override for override, _ in HELD[:5]), *FREE))
    assert str(caught.value).splitlines()[1:-1] == sorted(f"  {difference}" for _, difference in HELD[:5])


def test_another_choice_is_a_difference_in_its_keys(tmp_path: Path, folder: RunFolder) -> None:
    folder.claim(config(tmp_path))
    with pytest.raises(InputError) as caught:
        folder.claim(config(tmp_path, "model.multi_token_prediction=null"))
    assert "  model.multi_token_prediction.num_layers: 1 there, None here\n" in str(caught.value)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError) as caught:
        folder.claim(config(tmp_path))
    assert str(caught.value) == (
        f"{folder.path} is not empty and holds no run (no config.yaml); use another training.output_folder"
    )
    assert [path.name for path in folder.path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"training\.output_folder"):
        RunFolder(path=tmp_path / name).claim(config(tmp_path))


def test_a_claim_that_was_killed_can_be_made_again(
    tmp_path: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.claim(config(tmp_path))
    monkeypatch.undo()
    folder.claim(config(tmp_path))
    assert open_run(folder.path)[1] == config(tmp_path)


def test_a_damaged_configuration_is_said(tmp_path: Path, folder: RunFolder) -> None:
    folder.claim(config(tmp_path))
    folder.configuration.write_text("model: [")
    with pytest.raises(InputError, match=r"out/config\.yaml:\d+: not valid YAML"):
        folder.claim(config(tmp_path))


def test_facts_are_kept(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.record_facts({"parameters": 3})
    assert json.loads(folder.facts.read_text()) == {"parameters": 3}


def test_facts_that_cannot_be_written_are_said(folder: RunFolder) -> None:
    folder.facts.mkdir(parents=True)
    with pytest.raises(InputError, match=r"training\.output_folder"):
        folder.record_facts({"parameters": 3})


@pytest.mark.parametrize("name", ["", "none"])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        open_run(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name} is not a run's output folder: it has no config.yaml"


def test_a_tokenizer_of_another_library_is_kept_as_a_tokenizer_json(tmp_path: Path, folder: RunFolder) -> None:
    pytest.importorskip("tiktoken", reason="the package tiktoken is not installed")
    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
    (tmp_path / "my.tiktoken").write_bytes(b"\n".join(lines))
    (tmp_path / "my.tiktoken.json").write_text('{"pattern": "gpt2", "special_tokens": {"<|endoftext|>": 256}}')
    folder.claim(config(tmp_path, f"data.tokenizer={tmp_path / 'my.tiktoken'}"))
    assert load_tokenizer(folder.tokenizer).encode("ab<|endoftext|>").ids == [97, 98, 256]


@pytest.mark.parametrize("name", ["training.global_batch_size", "training"])
def test_an_accepted_change_passes_and_is_recorded(tmp_path: Path, folder: RunFolder, name: str) -> None:
    folder.claim(config(tmp_path))
    changed = config(tmp_path, "training.global_batch_size=8")
    folder.claim(changed, [name])
    (line,) = map(json.loads, folder.accepted_changes.read_text().splitlines())
    assert (line["name"], line["there"], line["here"]) == ("training.global_batch_size", 4, 8)
    folder.claim(changed)
    assert len(folder.accepted_changes.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "override",
    ["data.train.sequence_length=16", "training.global_batch_size=8", "optimizer.learning_rate=0.5", "training.seed=1"],
)
def test_only_what_is_named_passes(tmp_path: Path, folder: RunFolder, override: str) -> None:
    folder.claim(config(tmp_path))
    with pytest.raises(InputError, match="--accept-change with the name of each"):
        folder.claim(config(tmp_path, override), ["training.steps", "optim", "tokenizer"])
    assert not folder.accepted_changes.exists()


def test_a_changed_tokenizer_is_refused_until_it_is_accepted(tmp_path: Path, folder: RunFolder) -> None:
    folder.claim(config(tmp_path))
    later = config(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"changed": true}')
    with pytest.raises(InputError, match=r"tokenizer: '\w{16}' there, '\w{16}' here"):
        folder.claim(later)
    assert folder.tokenizer.read_text() == "{}"
    folder.claim(later, ["tokenizer"])
    assert folder.tokenizer.read_text() == '{"changed": true}'
    assert json.loads(folder.accepted_changes.read_text())["name"] == "tokenizer"
