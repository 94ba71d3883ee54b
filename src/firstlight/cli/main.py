"""The `firstlight` command: its verbs, and how errors become a message and an exit code."""

import sys
from typing import Annotated

import typer

from firstlight import __version__
from firstlight.base import log
from firstlight.base.errors import FirstlightError
from firstlight.base.failure import Reported
from firstlight.base.peers import PeerFailed
from firstlight.base.world import ask_for_reproducible_products, silence_profiler
from firstlight.cli.verbs import Verbs

EXIT_CODES = (
    "Exit codes: 0 done, 1 failure while running, 2 wrong input, 3 no loadable checkpoint, 4 output folder in use, "
    "75 preempted and saved."
)

app = typer.Typer(
    name="firstlight",
    cls=Verbs,
    help="From raw text to a trained language model: one YAML file, one command.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Options before the verb."""
    if version:
        typer.echo(f"firstlight {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a FirstlightError becomes one message on stderr and its exit code."""
    log.set_up()
    ask_for_reproducible_products()
    silence_profiler()
    try:
        app()
    except (PeerFailed, Reported) as failure:
        sys.exit(failure.exit_code)
    except FirstlightError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
