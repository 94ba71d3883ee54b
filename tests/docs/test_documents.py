"""What README and docs say can be done: commands parse, YAML loads, links lead somewhere, the reference is today's."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from firstlight.cli.main import app
from firstlight.config.load import load

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")
TEST_MAKE_TARGET = re.compile(r"^make ([a-z-]+)", re.MULTILINE)


def command_lines() -> list[str]:
    """Every line of a bash block that starts the command, as written."""
    blocks = [block for document in DOCUMENTS for block in BLOCK.findall(document.read_text())]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith("firstlight ")})


def parse(arguments: list[str]) -> None:
    """Parse a command line with its verbs and flags, running nothing; a usage error is raised."""
    command = typer.main.get_command(app)
    context = command.make_context("firstlight", arguments, resilient_parsing=False)
    while True:
        name, subcommand, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = subcommand.make_context(name, rest, parent=context)
        command = subcommand
        if not hasattr(command, "resolve_command"):
            return


def test_documents_have_commands():
    assert len(command_lines()) > 8


@pytest.mark.parametrize("line", command_lines())
def test_a_command_can_be_given(line: str):
    parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("line", ["train --confg x.yaml", "trian --config x.yaml", "tokenizer train --vocab-size many"])
def test_a_command_that_cannot_be_given_is_noticed(line: str):
    with pytest.raises(Exception, match="(?i)no such|valid"):
        parse(shlex.split(line))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    broken = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(example: Path):
    load(example).require_rules(world_size=1)


def test_make_targets_that_are_named_exist():
    named = {target for document in DOCUMENTS for target in TEST_MAKE_TARGET.findall(document.read_text())}
    makefile = (ROOT / "Makefile").read_text()
    assert {"quickstart", "test"} <= named
    assert not [target for target in named if f"\n{target}:" not in makefile]


def test_the_reference_is_that_of_the_schema():
    written = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert written == runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))["reference"](), "run `make docs`"


def test_the_table_of_layouts_is_that_of_the_arithmetic():
    written = (ROOT / "docs" / "parallelism.md").read_text()
    script = runpy.run_path(str(ROOT / "scripts" / "write_layouts.py"))
    assert script["table"]().count("\n") == 2 + len(script["LAYOUTS"])
    assert written == script["page"](written), "run `make docs`"


def test_the_tables_of_mindformers_keys_are_those_of_the_translation():
    written = (ROOT / "docs" / "guides" / "from-mindspore-transformers.md").read_text()
    script = runpy.run_path(str(ROOT / "scripts" / "write_translation.py"))
    assert written == script["page"](written), "run `make docs`"


@pytest.mark.parametrize(("size", "processes"), [("1b", 8), ("671b", 1024)])
def test_translated_examples_are_those_of_the_translation(size: str, processes: int):
    script = runpy.run_path(str(ROOT / "scripts" / "write_translation.py"))
    path = ROOT / "examples" / "from-mindformers" / f"pretrain_deepseek3_{size}.yaml"
    assert path.read_text() == script["example"](size), "run `make docs`"
    load(path).require_rules(world_size=processes)


def test_help_names_every_verb_and_the_exit_codes():
    output = CliRunner().invoke(app, ["--help"]).output
    for verb in (
        "tokenizer",
        "prepare",
        "train",
        "evaluate",
        "generate",
        "export",
        "convert",
        "translate",
        "report",
        "config",
    ):
        assert verb in output
    assert "75 preempted and saved" in " ".join(output.split())
