"""`firstlight translate`: a YAML file of MindFormers, written anew in our schema."""

from pathlib import Path
from typing import Annotated

import typer

from firstlight.cli.configuration import count_rows
from firstlight.compat.translation import translate as translate_file


def translate(
    file: Annotated[Path, typer.Argument(metavar="OLD.yaml", help="A MindFormers file.", show_default=False)],
    world_size: Annotated[
        int | None,
        typer.Option(help="The number of processes; default: as many as it is written for.", min=1, show_default=False),
    ] = None,
) -> None:
    """Print a MindFormers file as one of ours, with comments on what is left out and why."""
    typer.echo(translate_file(file, world_size=world_size, count_rows=count_rows).text, nl=False)
