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
from firstlight.cli import (
    checkpoint,
    config,
    convert,
    data,
    dataset,
    drill,
    dry_run,
    launch,
    mindformers,
    plan,
    run,
    train,
    translate,
    watch,
)

EXIT_CODES = (
    "Exit codes: 0 done, 1 failure while running, 2 wrong input, 3 no loadable checkpoint, 4 output folder in use, "
    "75 preempted and saved."
)

app = typer.Typer(
    name="firstlight",
    help="From raw text to a trained language model: one YAML file, one command.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.tokenizer_app, name="tokenizer")
app.command("prepare")(data.prepare)
app.add_typer(dataset.app, name="data")
app.command("plan")(plan.plan)
app.command("dry-run")(dry_run.dry_run)
app.command("train")(train.train)
app.add_typer(launch.app, name="launch")
app.command("drill")(drill.drill)
app.command("evaluate")(run.evaluate)
app.command("generate")(run.generate)
app.command("export")(run.export)
app.command("convert")(convert.convert)
app.command("translate")(translate.translate)
app.command("mindformers-home")(mindformers.home_folder)
app.add_typer(mindformers.app, name="mindformers")
app.command("report")(run.report)
app.command("watch")(watch.watch)
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(config.app, name="config")


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
