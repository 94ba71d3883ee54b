"""`--set` lays values over the file, and is named where its value is at fault."""

from pathlib import Path
from typing import Any

import pytest

from firstlight.config.source import apply_overrides, read_source
from tests.runs import TINY_YAML
from tests.unit.config.yaml_file import changed, faults, loaded, place, refusal, written


def overridden(folder: Path, *overrides: str, text: str = TINY_YAML) -> dict[str, Any]:
    source = read_source(written(folder, text))
    apply_overrides(source, overrides)
    return source.values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5", 5),
        ("true", True),
        ("", None),
        ("null", None),
        ("words with spaces", "words with spaces"),
        ("a=b", "a=b"),
        ("[1, 2]", [1, 2]),
        ("{a: 1e-2}", {"a": 0.01}),
    ],
)
def test_values_are_read_as_yaml(tmp_path: Path, text: str, value: object) -> None:
    found = overridden(tmp_path, f"optimizer.learning_rate={text}")["optimizer"]["learning_rate"]
    assert found == value
    assert type(found) is type(value)


def test_the_last_one_holds(tmp_path: Path) -> None:
    config = loaded(tmp_path, overrides=["training.steps=5", "training.steps=6"]).config
    assert config.training.steps == 6


def test_items_of_lists_go_by_index(tmp_path: Path) -> None:
    config = loaded(tmp_path, overrides=["data.train.sources.0.path=/other", "monitor.sinks.1=tensorboard"]).config
    assert config.data.train.sources[0].path == Path("/other")
    assert config.monitor.sinks == ("console", "tensorboard")


def test_sections_that_are_not_there_are_made(tmp_path: Path) -> None:
    config = loaded(tmp_path, overrides=["lr_scheduler.type=cosine", "lr_scheduler.warmup_steps=1"]).config
    assert config.lr_scheduler.type == "cosine"
    assert config.lr_scheduler.warmup_steps == 1
    assert overridden(tmp_path, "a.b.c=1")["a"] == {"b": {"c": 1}}


def test_a_section_may_be_given_whole(tmp_path: Path) -> None:
    config = loaded(tmp_path, overrides=["model.multi_token_prediction=null", "recompute={kind: full}"]).config
    assert config.model.multi_token_prediction is None
    assert config.recompute.kind == "full"


@pytest.mark.parametrize("text", ["training.steps", "=3", "a..b=3", ".a=3", "a.=3", ""])
def test_bad_syntax_is_refused_with_an_example(tmp_path: Path, text: str) -> None:
    expected = f"--set {text}: expected KEY=VALUE, such as optimizer.learning_rate=1e-3"
    assert refusal(tmp_path, overrides=[text]) == expected


def test_a_value_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, overrides=["training.steps=[1"]).startswith(
        "--set training.steps=[1: the value is not valid YAML: "
    )


def test_a_value_that_is_not_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, overrides=["training.steps=[1"])
    assert "\n" not in message
    assert "expected ',' or ']'" in message


def test_a_value_has_no_keys(tmp_path: Path) -> None:
    message = refusal(tmp_path, overrides=["optimizer.learning_rate.x=3"])
    assert message == "--set optimizer.learning_rate.x=3: optimizer.learning_rate = 0.001 is a value, not a section"


@pytest.mark.parametrize("index", ["1", "-1", "first"])
def test_an_index_outside_the_list_is_refused(tmp_path: Path, index: str) -> None:
    override = f"data.train.sources.{index}.path=x"
    message = refusal(tmp_path, overrides=[override])
    assert message.startswith(f"--set {override}: data.train.sources")
    assert "a list of 1" in message
    assert " 0" in message


def test_an_index_outside_the_list_is_told_from_the_list(tmp_path: Path) -> None:
    message = refusal(tmp_path, overrides=["data.train.sources.1.path=x"])
    assert message.endswith(": data.train.sources is a list of 1 and has no index 1; use 0")
    empty = changed("- name: tiny\n      path: data/tiny_heldout_text_document", "[]")
    message = refusal(tmp_path, empty, ["data.evaluate.0.name=x"])
    assert message.endswith(": data.evaluate is an empty list; set the whole of it")


def test_an_odd_digit_is_a_key_like_another(tmp_path: Path) -> None:
    assert "checkpoint.² is not a known key" in refusal(tmp_path, overrides=["checkpoint.²=1"])


@pytest.mark.parametrize(
    "override",
    ["training.steps=0", "data.evaluate.0.name=a b", "lr_scheduler={type: cosine, final_ratio: 2}", "checkpoint.xyz=1"],
)
def test_a_fault_of_an_override_is_placed_there(tmp_path: Path, override: str) -> None:
    (fault,) = faults(tmp_path, overrides=[override])
    assert fault.endswith(f"(--set {override})")


def test_other_faults_keep_their_lines(tmp_path: Path) -> None:
    text = changed("  global_batch_size: 4", "  global_batch_size: 0")
    first, second = faults(tmp_path, text, ["training.steps=0"])
    assert first.endswith("(--set training.steps=0)")
    assert second.endswith(f"({place(text, 'global_batch_size')})")


def test_a_section_that_is_set_whole_forgets_its_lines(tmp_path: Path) -> None:
    override = "checkpoint={keep_last: 0}"
    (fault,) = faults(tmp_path, overrides=[override])
    assert fault.startswith("checkpoint.keep_last = 0: ")
    assert fault.endswith(f"(--set {override})")


def test_a_fault_of_a_section_made_by_an_override_is_placed_there(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, overrides=["lr_scheduler.warmup_steps=1"])
    assert fault.endswith("(--set lr_scheduler.warmup_steps=1)")
