"""Every verb explains itself, and what needs no torch does not wait for it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from firstlight import __version__
from firstlight.cli.main import EXIT_CODES, app
from firstlight.cli.verbs import VERBS as LISTED
from tests.runs import environment, make_tiny_run
from tests.unit.cli.command import ask

WITHOUT_TORCH = """
import sys
from firstlight.cli.main import main
sys.argv = ["firstlight", *sys.argv[1:]]
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
finally:
    loaded = sorted({"torch", "tensorboard", "plotly"} & set(sys.modules))
    print("loaded:", *loaded, file=sys.stderr)
"""


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb and group, with the words that call it."""
    yield path, command
    for name in command.list_commands(None) if isinstance(command, TyperGroup) else ():
        yield from verbs(command.get_command(None, name), (*path, name))


VERBS = dict(verbs(typer.main.get_command(app)))


@pytest.mark.parametrize("name", LISTED)
def test_the_list_says_of_a_verb_what_it_says_itself(name: str) -> None:
    first = VERBS[(name,)].help.partition("\n\n")[0]
    assert " ".join(first.split()) == LISTED[name].help


def test_the_list_of_verbs_loads_none_of_them() -> None:
    script = (
        "import sys; from firstlight.cli.main import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "firstlight.cli.verbs" in loaded
    assert not {"firstlight.cli.train", "firstlight.config.schema", "numpy"} & set(loaded)


def test_these_verbs_are_there() -> None:
    assert set(VERBS) >= {
        (),
        ("tokenizer", "train"),
        ("prepare",),
        ("train",),
        ("evaluate",),
        ("generate",),
        ("export",),
        ("report",),
        ("data", "inspect"),
        ("data", "verify"),
        ("data", "decode"),
        ("data", "merge"),
        ("config", "show"),
        ("config", "check"),
        ("config", "schema"),
    }


@pytest.mark.parametrize("words", VERBS, ids=lambda words: "-".join(words) or "firstlight")
def test_a_verb_explains_itself_and_its_flags(words: tuple[str, ...], tmp_path: Path) -> None:
    answer = ask(tmp_path, *words, "--help")
    assert answer.exit_code == 0
    assert answer.err == ""
    assert answer == ask(tmp_path, *words, "-h")
    command = VERBS[words]
    assert command.help
    assert command.help.split("\n")[0] in answer.out
    for parameter in command.params:
        for flag in (*parameter.opts, *parameter.secondary_opts):
            if flag.startswith("-"):
                assert flag in answer.out
        explanation = getattr(parameter, "help", None)
        assert explanation, f"{parameter.name} has no help"
        assert explanation.split()[0] in answer.out
    for name in getattr(command, "commands", {}):
        assert f"│ {name} " in answer.out


def test_the_help_tells_the_exit_codes(tmp_path: Path) -> None:
    assert EXIT_CODES in ask(tmp_path, "--help").out


@pytest.mark.parametrize("words", [(), ("config",), ("tokenizer",), ("data",)])
def test_a_group_without_a_verb_is_helped(words: tuple[str, ...], tmp_path: Path) -> None:
    answer = ask(tmp_path, *words)
    assert answer.exit_code == 2
    assert "Commands" in answer.out + answer.err


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    answer = ask(tmp_path, "--version")
    assert (answer.exit_code, answer.out) == (0, f"firstlight {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["train"], "name the run's YAML file"),
        (["train", "--config", "run.yaml", "--nproc-per-node", "0"], "Invalid value for '--nproc-per-node'"),
        (["train", "--confg", "run.yaml"], "No such option: --confg"),
        (["generate", "out", "--temperature", "hot"], "Invalid value for '--temperature'"),
    ],
)
def test_a_wrong_command_line_is_wrong_input(tmp_path: Path, arguments: list[str], what: str) -> None:
    answer = ask(tmp_path, *arguments)
    assert answer.exit_code == 2
    assert what in answer.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny run's input."""
    return make_tiny_run(tmp_path_factory.mktemp("help")).folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["train", "--help"],
        ["config", "check", "--config", "run.yaml"],
        ["config", "show", "--config", "run.yaml"],
        ["config", "schema"],
        ["prepare", "--tokenizer", "tokenizer.json", "--output-prefix", "again/tiny", "--input", "corpus.jsonl"],
        ["tokenizer", "train", "--vocab-size", "280", "--output", "again/tokenizer.json", "--input", "corpus.jsonl"],
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_torch_is_not_loaded(folder: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "loaded:"


def test_loading_torch_would_be_noticed(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import tensorboard\n" + WITHOUT_TORCH, "--version"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "loaded: tensorboard"
