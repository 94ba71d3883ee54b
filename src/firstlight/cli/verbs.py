"""The verbs of `firstlight`, each loaded when it is called: a short command waits for no other verb's imports."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A function of a module of this room, or a group of verbs there."""

    module: str
    attribute: str
    help: str
    """As its own help begins, for the list of verbs."""

    def load(self, name: str) -> Any:
        """The command that typer makes of it."""
        found = getattr(import_module(f"firstlight.cli.{self.module}"), self.attribute)
        if isinstance(found, typer.Typer):
            group = get_group(found)
            group.name = name
            return group
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        return get_command(alone)


VERBS: Mapping[str, Verb] = {
    "tokenizer": Verb(module="data", attribute="tokenizer_app", help="Make a tokenizer."),
    "prepare": Verb(
        module="data",
        attribute="prepare",
        help="Turn text into a Megatron or MindRecord data set of token ids, and a held-out one.",
    ),
    "data": Verb(module="dataset", attribute="app", help="Look at data sets, check them, join and split them."),
    "plan": Verb(
        module="plan",
        attribute="plan",
        help="Predict memory, time and cost of a run. What does not fit is refused (exit code 2), with what would.",
    ),
    "dry-run": Verb(
        module="dry_run",
        attribute="dry_run",
        help="Build what ranks of a run would hold, by the run's own code: shards, files, samples, schedules, a step.",
    ),
    "train": Verb(
        module="train",
        attribute="train",
        help="Train from a YAML file. Started again with the same command, a run goes on from its last checkpoint.",
    ),
    "launch": Verb(
        module="launch",
        attribute="app",
        help="Start a run on one machine or many, or write what starts it.",
    ),
    "drill": Verb(
        module="drill",
        attribute="drill",
        help="Train with faults, one after the other at chance steps and ranks; the end shows what each has cost.",
    ),
    "evaluate": Verb(
        module="run",
        attribute="evaluate",
        help="Print the loss of the run's newest checkpoint on its held-out sets, or its figures on tasks, and write "
        "them to evaluation.json or tasks.json.",
    ),
    "generate": Verb(
        module="run",
        attribute="generate",
        help="Print a continuation of the prompt, written by the run's newest checkpoint; also kept as sample.txt.",
    ),
    "export": Verb(
        module="run", attribute="export", help="Write the run's newest checkpoint as a Hugging Face folder."
    ),
    "report": Verb(
        module="run",
        attribute="report",
        help="Write one HTML page with the curves and figures of one or more runs.",
    ),
    "watch": Verb(
        module="watch",
        attribute="watch",
        help="Follow runs while they train: the report as a page on 127.0.0.1 that keeps up with them, until "
        "interrupted.",
    ),
    "checkpoint": Verb(
        module="checkpoint", attribute="app", help="Look at a run's checkpoints, check, compare and remove them."
    ),
    "convert": Verb(
        module="convert",
        attribute="convert",
        help="Write weights in another format. Started again after a kill, it goes on.",
    ),
    "config": Verb(module="config", attribute="app", help="Show, check or describe a run's configuration."),
    "translate": Verb(
        module="translate",
        attribute="translate",
        help="Print a MindFormers file as one of ours, with comments on what is left out and why.",
    ),
    "mindformers-home": Verb(
        module="mindformers",
        attribute="home_folder",
        help="Make the folder that serves as MINDFORMERS_HOME, and print its name.",
    ),
    "mindformers": Verb(module="mindformers", attribute="app", help="What the scripts of MINDFORMERS_HOME call."),
}


class Verbs(TyperGroup):
    """Knows the names and first lines of all verbs, and loads the one that is called."""

    _is_listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # as typer calls it
        """As the help shows them."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  # as typer calls it
        """The verb; while the help is written a line of its own is enough."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        return TyperCommand(cmd_name, help=verb.help) if self._is_listing else verb.load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of verbs."""
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False
