"""`firstlight config`: what is wrong is said before anything is started."""

import json
from pathlib import Path

import pytest

from firstlight.config.load import load
from firstlight.config.schema import RunConfig
from firstlight.observe.schedule_page import drawn_updates
from tests.runs import TINY_YAML, TinyRun, make_tiny_run
from tests.unit.cli.command import ask
from tests.unit.config.yaml_file import place

CHECK = ("config", "check", "--config", "run.yaml")
SHOW = ("config", "show", "--config", "run.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """What a tiny run is made of. Tests do not change it."""
    return make_tiny_run(tmp_path_factory.mktemp("config"))


def test_a_good_configuration_is_said_to_be(run: TinyRun) -> None:
    answer = ask(run.folder, *CHECK, "--world-size", "2")
    assert (answer.exit_code, answer.out) == (0, "run.yaml is valid for 2 process(es)\n")


def test_what_is_shown_is_a_configuration_with_every_default(run: TinyRun, tmp_path: Path) -> None:
    answer = ask(run.folder, *SHOW, "--set", "training.steps=7")
    assert answer.exit_code == 0
    (tmp_path / "shown.yaml").write_text(answer.out)
    shown = load(tmp_path / "shown.yaml").config
    assert shown.training.steps == 7
    assert shown.training.output_folder == run.output
    assert "  initializer_range: 0.02\n" in answer.out


def test_what_follows_from_it_is_shown_too(run: TinyRun) -> None:
    facts = [line for line in ask(run.folder, *SHOW, "--world-size", "2").out.splitlines() if line.startswith("# ")]
    assert "# micro-batches per rank and step: 1" in facts
    assert f"# tokens per step: {4 * 32:,}" in facts
    assert f"# tokens in all: {4 * 4 * 32:,}" in facts
    assert any(fact.split()[1:3] == ["data_parallel_shard", "2"] for fact in facts)
    assert any(fact.startswith("# parameters: 51,872, of which a token passes 45,728") for fact in facts)


def test_the_schema_is_printed(tmp_path: Path) -> None:
    answer = ask(tmp_path, "config", "schema")
    assert answer.exit_code == 0
    assert json.loads(answer.out) == json.loads(json.dumps(RunConfig.model_json_schema()))


@pytest.mark.parametrize("verb", [CHECK, SHOW])
def test_every_fault_is_said_at_once(run: TinyRun, verb: tuple[str, ...]) -> None:
    answer = ask(run.folder, *verb, "--set", "checkpoint.keep_lst=2", "--set", "training.steps=0")
    assert (answer.exit_code, answer.out) == (2, "")
    head, *lines = answer.message.splitlines()
    assert head == "run.yaml has 2 faults:"
    assert sorted(line.split()[0] for line in lines) == ["checkpoint.keep_lst", "training.steps"]


@pytest.mark.parametrize("verb", [CHECK, SHOW])
def test_rules_are_those_of_the_world_size(run: TinyRun, verb: tuple[str, ...]) -> None:
    answer = ask(run.folder, *verb, "--world-size", "4")
    assert (answer.exit_code, answer.out) == (2, "")
    assert "training.global_batch_size = 4 is not a multiple of micro_batch_size = 2 x 4" in answer.message
    assert answer.message.endswith(f"({place(TINY_YAML, 'global_batch_size')})")


def test_every_missing_file_is_named(run: TinyRun) -> None:
    answer = ask(run.folder, *CHECK, "--set", "data.train.sources.0.path=a", "--set", "data.evaluate.0.path=b")
    assert answer.exit_code == 2
    files = ", ".join(str(run.folder / name) for name in ("a.idx", "a.bin", "b.idx", "b.bin"))
    assert answer.message == f"data files do not exist: {files}; `firstlight prepare` makes them"


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(run: TinyRun) -> None:
    answer = ask(run.folder, *CHECK, "--set", "model.vocab_size=299")
    assert answer.exit_code == 2
    assert answer.message == (
        f"model.vocab_size = 299 is smaller than the 300 ids of the tokenizer {run.folder / 'tokenizer.json'}; "
        "set model.vocab_size to 300 or more, or use a tokenizer with fewer ids"
    )


def test_a_missing_tokenizer_is_named(run: TinyRun) -> None:
    answer = ask(run.folder, *CHECK, "--set", "data.tokenizer=none.json")
    assert answer.exit_code == 2
    assert answer.message == (
        f"there is no tokenizer in {run.folder / 'none.json'}; name a tokenizer.json or a folder with one, "
        "or a file of .tiktoken or .model"
    )


def test_a_truncated_data_set_is_found_by_the_check(run: TinyRun, tmp_path: Path) -> None:
    content = (run.folder / "data" / "tiny_text_document.bin").read_bytes()
    (tmp_path / "short.bin").write_bytes(content[:1000])
    (tmp_path / "short.idx").write_bytes((run.folder / "data" / "tiny_text_document.idx").read_bytes())
    answer = ask(run.folder, *CHECK, "--set", f"data.train.sources.0.path={tmp_path / 'short'}")
    assert answer.exit_code == 2


def test_schedule_draws_every_number_that_changes(run: TinyRun, tmp_path: Path) -> None:
    output = tmp_path / "drawn.html"
    decay = "optimizer.weight_decay={value: 0.5, schedule: {type: linear}}"
    changes = ("--set", "lr_scheduler.type=cosine", "--set", decay, "--output", str(output))
    answer = ask(run.folder, "config", "schedule", "--config", "run.yaml", *changes)
    assert (answer.exit_code, answer.out) == (0, f"{output}\n"), answer.err
    page = output.read_text()
    assert "cosine: from 0.001 over at most 0.001 to 0.0001" in page
    assert "linear: from 0.5 over at most 0.5 to 0<" in page
    assert "optimizer.weight_decay" in page
    assert "bias_update_rate" not in page


def test_a_long_schedule_is_drawn_from_its_first_to_its_last_update() -> None:
    assert drawn_updates(5) == [0, 1, 2, 3, 4]
    drawn = drawn_updates(500_000, most=1000)
    assert (drawn[0], drawn[-1], len(set(drawn))) == (0, 499_999, 1000)
