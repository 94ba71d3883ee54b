"""The verb that follows a run."""

import time
from pathlib import Path
from typing import Annotated

import typer

from firstlight.base.errors import InputError


def watch(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Output folders of runs.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page on this machine; 0: any free one.")] = 8050,
    tui: Annotated[bool, typer.Option("--tui", help="Show one run in this terminal instead of a page.")] = False,
) -> None:
    """Follow runs while they train: the report as a page on 127.0.0.1 that keeps up with them, until interrupted."""
    from firstlight.observe.live_page import served
    from firstlight.observe.watch import watch_in_terminal

    for run in runs:
        if not run.is_dir():
            raise InputError(f"{run} is no folder; name a run's output folder")
    if tui and len(runs) > 1:
        raise InputError("--tui shows one run; name one, or leave --tui out for a page with all of them")
    try:
        if tui:
            watch_in_terminal(runs[0])
            return
        with served(runs, port) as address:
            typer.echo(f"{address} follows {', '.join(map(str, runs))}; Ctrl-C ends it")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return
