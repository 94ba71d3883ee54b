"""What a user gets wrong ends with exit code 2 and one message that says what would do. Nothing is left behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import TinyRun, make_tiny_run, train_arguments
from tests.unit.checkpoint.state import contents
from tests.unit.cli.command import Answer, ask


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """What a tiny run is made of."""
    return make_tiny_run(tmp_path_factory.mktemp("source") / "run")


@pytest.fixture
def run(source: TinyRun, tmp_path: Path) -> TinyRun:
    """The same in a folder of its own, to damage."""
    shutil.copytree(source.folder, tmp_path / "run")
    return TinyRun(folder=tmp_path / "run")


def refused(run: TinyRun, *arguments: str) -> str:
    """The message of a command that is refused and changes nothing on the disk."""
    before = contents(run.folder)
    answer = ask(run.folder, *arguments)
    assert answer.exit_code == 2
    assert answer.out == ""
    assert contents(run.folder) == before
    return answer.message


def test_a_missing_configuration_file(run: TinyRun) -> None:
    assert refused(run, "train", "--config", "none.yaml") == "configuration file none.yaml does not exist"


@pytest.mark.parametrize("key", ["data.train.sources.0.path", "data.evaluate.0.path"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_missing_data_file(run: TinyRun, key: str, processes: int) -> None:
    message = refused(run, *train_arguments(f"{key}=none", processes=processes))
    assert str(run.folder / "none.idx") in message
    assert "`firstlight prepare`" in message


def test_a_missing_half_of_a_data_set(run: TinyRun) -> None:
    missing = run.folder / "data" / "tiny_text_document.bin"
    missing.unlink()
    assert refused(run, *train_arguments()).startswith(f"{missing} does not exist; ")


@pytest.mark.parametrize("content", ["", "\n", '{"text": ""}\n'])
def test_a_corpus_without_text(run: TinyRun, content: str) -> None:
    (run.folder / "empty.jsonl").write_text(content)
    message = refused(
        run, "prepare", "--tokenizer", "tokenizer.json", "--output-prefix", "data/empty", "--input", "empty.jsonl"
    )
    assert message == "the input has no document with text; name files that have some with --input"


def test_a_misspelt_key(run: TinyRun) -> None:
    text = (run.folder / "run.yaml").read_text().replace("hidden_size", "hiden_size")
    (run.folder / "run.yaml").write_text(text)
    assert refused(run, *train_arguments()).splitlines() == [
        "run.yaml has 2 faults:",
        "  model.hidden_size is missing (run.yaml:1)",
        "  model.hiden_size is not a known key; did you mean hidden_size? (run.yaml:4)",
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_experts_that_do_not_divide(run: TinyRun, processes: int) -> None:
    message = refused(run, *train_arguments("parallelism.expert_parallel=3", processes=processes))
    assert (
        "parallelism.expert_parallel = 3 does not divide model.feed_forward.n_routed_experts = 4; use 1, 2, 4 "
        "(--set parallelism.expert_parallel=3)"
    ) in message


@pytest.mark.parametrize("processes", [1, 2])
def test_a_tokenizer_with_more_ids_than_the_model(run: TinyRun, processes: int) -> None:
    message = refused(run, *train_arguments("model.vocab_size=299", processes=processes))
    assert message.startswith("model.vocab_size = 299 is smaller than the 300 ids of the tokenizer ")
    assert "set model.vocab_size to 300 or more" in message


@pytest.mark.parametrize("name", ["tiny_text_document", "tiny_heldout_text_document"])
def test_a_truncated_data_set(run: TinyRun, name: str) -> None:
    file = run.folder / "data" / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:1000])
    message = refused(run, *train_arguments())
    assert message.startswith(f"{file.with_suffix('.idx')}: sequence ")
    assert "outside the 1000 bytes of its .bin file" in message
    assert message.endswith("copy it again or prepare it again")


def test_a_set_shorter_than_a_sample(run: TinyRun) -> None:
    message = refused(run, *train_arguments("data.train.sequence_length=9000", "model.max_position_embeddings=9000"))
    assert "one sample of sequence_length 9000 needs 9001" in message


def test_the_folder_of_another_run(run: TinyRun) -> None:
    assert ask(run.folder, *train_arguments("training.steps=1")).exit_code == 0
    message = refused(run, *train_arguments("optimizer.learning_rate=0.5", "checkpoint.keep_last=1"))
    assert message.splitlines() == [
        f"{run.output} holds another run, which differs in:",
        "  optimizer.learning_rate: 0.001 there, 0.5 here",
        "  training.steps: 1 there, 4 here",
        "Use another training.output_folder, or the configuration that the run was started with, "
        "or --accept-change with the name of each",
    ]


def test_a_folder_of_other_files(run: TinyRun) -> None:
    message = refused(run, *train_arguments("training.output_folder=data"))
    assert message == (
        f"{run.folder / 'data'} is not empty and holds no run (no config.yaml); use another training.output_folder"
    )


def test_a_folder_that_is_a_file(run: TinyRun) -> None:
    assert "tokenizer.json" in refused(run, *train_arguments("training.output_folder=tokenizer.json/out"))


@pytest.mark.parametrize("folder", ["data", "none"])
@pytest.mark.parametrize(
    ("verb", "more"), [("evaluate", ()), ("generate", ()), ("export", ("--output", "exported"))], ids=lambda part: part
)
def test_a_folder_that_is_no_run(run: TinyRun, verb: str, more: tuple[str, ...], folder: str) -> None:
    message = refused(run, verb, folder, *more)
    assert message == f"{folder} is not a run's output folder: it has no config.yaml"


def test_an_export_into_a_folder_of_other_files(run: TinyRun) -> None:
    assert ask(run.folder, *train_arguments("training.steps=1")).exit_code == 0
    assert refused(run, "export", "out", "--output", "data") == "data is not empty; name a new folder for the export"


@pytest.mark.parametrize("folder", ["data", "none"])
def test_a_report_on_a_folder_that_is_no_run(run: TinyRun, folder: str) -> None:
    message = refused(run, "report", folder)
    assert message == f"{folder}/metrics.jsonl does not exist; is {folder} the folder of a run that logs to jsonl?"


@pytest.mark.parametrize(
    ("overrides", "processes", "what"),
    [
        (["parallelism.data_parallel_shard=2"], 1, "needs 2 processes, and there are 1; start that many"),
        (["parallelism.data_parallel_shard=1"], 2, "needs 1 processes, and there are 2; start that many"),
        (["parallelism.data_parallel_replicate=2"], 1, "does not divide the 1 processes; use 1"),
        ([], 3, "training.global_batch_size = 4 is not a multiple of micro_batch_size = 2 x 3 data-parallel ranks"),
    ],
)
def test_a_number_of_processes_that_does_not_fit(run: TinyRun, overrides: list[str], processes: int, what: str) -> None:
    assert what in refused(run, *train_arguments(*overrides, processes=processes))


@pytest.mark.parametrize(
    ("variables", "what"),
    [
        ({"RANK": "0"}, "environment variable WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2"}, "environment variable RANK is not set"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "environment variable RANK = '-1' is not a number"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "environment variable WORLD_SIZE = 'two' is not a number"),
    ],
)
def test_a_launcher_that_says_half(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], what: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert what in refused(run, *train_arguments())


@pytest.mark.parametrize(
    ("rank", "size", "what"), [("0", "0", "WORLD_SIZE = 0"), ("5", "2", "RANK = 5"), ("0", "2", "MASTER_ADDR")]
)
def test_a_launcher_that_says_what_cannot_be(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch, rank: str, size: str, what: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert what in refused(run, *train_arguments())


def test_two_launchers(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    message = refused(run, *train_arguments(processes=2))
    assert message.startswith("--nproc-per-node was given to a process that a launcher has started already")


@pytest.mark.parametrize(
    "damage",
    [
        lambda answer: answer.err + "error: again\n",
        lambda answer: answer.err.replace("error: ", ""),
        lambda answer: "Traceback (most recent call last):\n" + answer.err,
    ],
)
def test_an_answer_with_more_or_less_than_one_message_is_noticed(damage: Callable[[Answer], str]) -> None:
    answer = Answer(exit_code=2, out="", err="error: what\n")
    assert answer.message == "what"
    with pytest.raises(AssertionError):
        _ = Answer(exit_code=2, out="", err=damage(answer)).message
