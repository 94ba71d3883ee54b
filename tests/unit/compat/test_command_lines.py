"""MindFormers' command lines: the launcher's four forms, the flags of its scripts, and what is wrong with them."""

from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.compat.launcher_arguments import read_launcher_arguments
from firstlight.compat.run_arguments import read_run_arguments
from firstlight.compat.translation import translate
from firstlight.compat.wikitext_arguments import read_wikitext_arguments
from tests.unit.cli.test_translate import OLD_YAML

ORDER = "run_mindformer.py --config run.yaml --options 'model.a=[1, 2]'"
NINE = (ORDER, "1024", "8", "10.0.0.1", "8118", "127", "output/msrun_log", "False", "7200")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(OLD_YAML)
    (tmp_path / "code").mkdir()
    return tmp_path


def test_one_word_is_eight_workers_here() -> None:
    asked = read_launcher_arguments([ORDER])
    assert asked.arguments == ("--config", "run.yaml", "--options", "model.a=[1, 2]")
    assert (asked.num_workers, asked.num_local_workers, asked.num_nodes, asked.joins) == (8, 8, 1, False)
    assert (asked.log_folder, asked.join_seconds) == (Path("output/msrun_log"), 7200)


def test_two_words_and_six() -> None:
    assert read_launcher_arguments(["python " + ORDER, "1"]).num_workers == 1
    asked = read_launcher_arguments([ORDER, "4", "9000", "logs", "True", "60"], log_suffix="a")
    assert (asked.num_workers, asked.master_port, asked.joins) == (4, 9000, True)
    assert (asked.log_folder, asked.join_seconds) == (Path("logs_a"), 60)


def test_nine_words_are_a_node_of_several() -> None:
    asked = read_launcher_arguments(NINE)
    assert (asked.num_nodes, asked.node_rank, asked.num_local_workers) == (128, 127, 8)
    assert (asked.master_address, asked.master_port) == ("10.0.0.1", 8118)


def test_nine_words_of_one_node_are_a_single_one() -> None:
    asked = read_launcher_arguments([*NINE[:2], "1024", *NINE[3:]])
    assert (asked.num_nodes, asked.node_rank) == (1, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "was given 0 arguments"),
        ([ORDER, "8", "8118"], "was given 3 arguments; use one of its forms"),
        ([ORDER, "abc"], "WORKER_NUM = 'abc' is not a whole number"),
        ([ORDER, "0"], "WORKER_NUM = '0'"),
        ([*NINE[:5], "128", *NINE[6:]], "NODE_RANK = 128 is not one of the 128 nodes"),
        ([*NINE[:5], "-1", *NINE[6:]], "NODE_RANK = '-1'"),
        ([*NINE[:2], "7", *NINE[3:]], "WORKER_NUM = 1024 is no multiple of LOCAL_WORKER = 7"),
        ([*NINE[:4], "99999", *NINE[5:]], "MASTER_PORT = 99999 is no port"),
        ([*NINE[:7], "maybe", "7200"], "JOIN = 'maybe' is neither True nor False"),
        ([*NINE[:8], "soon"], "CLUSTER_TIME_OUT = 'soon'"),
        (["train.py --config x"], "it must start run_mindformer.py"),
        (["run_mindformer.py 'x"], "cannot be split into words"),
    ],
)
def test_what_is_wrong_with_a_launch_is_said(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_launcher_arguments(words)


def test_flags_stand_for_keys_and_dotted_words_for_themselves(home: Path) -> None:
    words = ["--config", "run.yaml", "--register_path", "code", "--use_parallel", "False", "--epochs", "2"]
    words += ["--train_data", "sets", "--options", "runner_config.batch_size=3", "--optimizer.eps=1.e-7"]
    asked = read_run_arguments([*words, "--callbacks.1.save_checkpoint_steps", "9"], home)
    assert asked.config == home / "run.yaml"
    assert asked.register_path == home / "code"
    assert [(change.key, change.text) for change in asked.changes] == [
        ("train_dataset.data_loader.dataset_dir", "sets"),
        ("use_parallel", "False"),
        ("runner_config.epochs", "2"),
        ("runner_config.batch_size", "3"),
        ("optimizer.eps", "1.e-7"),
        ("callbacks.1.save_checkpoint_steps", "9"),
    ]


def test_changes_are_translated_as_if_they_were_written(home: Path) -> None:
    words = ["--config", "run.yaml", "--epochs", "2", "--callbacks.1.save_checkpoint_steps", "9"]
    asked = read_run_arguments([*words, "--train_dataset.data_loader.sizes", "[40, 0, 0]"], home)
    values = translate(asked.config, changes=asked.changes).values
    assert values["training"]["steps"] == 20
    assert values["checkpoint"]["save_every_steps"] == 9


def test_a_wrong_key_is_said_with_the_flag(home: Path) -> None:
    asked = read_run_arguments(["--config", "run.yaml", "--runner_config.epoch", "2"], home)
    with pytest.raises(InputError, match=r"did you mean epochs\? \(--runner_config.epoch 2\)"):
        translate(asked.config, changes=asked.changes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs --config"),
        (["--config", "no.yaml"], "no.yaml does not exist"),
        (["--config", "run.yaml", "--register_path", "none"], "none is no folder"),
        (["--config", "run.yaml", "--a.b"], "--a.b has no value"),
        (["--config", "run.yaml", "--a.b", "--c.d", "1"], "--a.b has no value"),
        (["--config", "run.yaml", "stray"], "stray belongs to no flag"),
        (["--config", "run.yaml", "--options", "a.b"], "expected KEY=VALUE"),
        (["--config", "run.yaml", "--predict_data", "hello"], "--predict_data is for inference"),
    ],
)
def test_what_is_wrong_with_a_run_is_said(home: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_run_arguments(words, home)


def test_the_words_of_wikitext_to_bin() -> None:
    words = "--input a --output-prefix b --vocab-file c --seq-length 64 --workers 2 --add-bos-token True --partitions 1"
    asked = read_wikitext_arguments(words.split())
    assert (asked.text, asked.output_prefix, asked.tokenizer) == (Path("a"), Path("b"), Path("c"))
    assert (asked.sequence_length, asked.workers, asked.rows, asked.appends_end) == (64, 2, "stitch", False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output-prefix b --vocab-file c --workers 1", "--input"),
        ("--input a --output-prefix b --workers 1", "needs --vocab-file"),
        ("--input a --output-prefix b --vocab-file c --workers x", "'x' is not a whole number"),
        ("--input a --output-prefix b --vocab-file c --workers 1 --split-sentences", "paragraphs are not split"),
    ],
)
def test_what_is_wrong_with_wikitext_to_bin_is_said(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_wikitext_arguments(words.split())
