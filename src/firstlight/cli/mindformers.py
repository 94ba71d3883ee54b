"""`firstlight mindformers-home`, and the verbs that the scripts of that folder call for MindFormers' own commands."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from tokenizers import Tokenizer

from firstlight.base import log
from firstlight.base.errors import InputError
from firstlight.base.failure import failures_reported
from firstlight.base.world import World, user_cache_folder
from firstlight.cli.background import start_in_background
from firstlight.cli.config import check_files
from firstlight.cli.configuration import Configuration, read_configuration
from firstlight.cli.loaded_weights import with_weights
from firstlight.cli.train import train_here
from firstlight.cli.worker_logs import (
    launcher_log,
    log_as_mindformers,
    log_to_launcher,
    log_to_rank,
    log_to_worker,
    worker_log,
)
from firstlight.compat.home_folder import make_home
from firstlight.compat.launcher_arguments import LauncherRequest, read_launcher_arguments
from firstlight.compat.old_file import Generation, is_mindformers, read_old_file
from firstlight.compat.run_arguments import RunRequest, read_run_arguments
from firstlight.compat.wikitext_arguments import BEGIN, END, read_wikitext_arguments
from firstlight.config.source import read_source
from firstlight.data import native
from firstlight.data.prepare import PrepareRequest
from firstlight.data.prepare import prepare as prepare_rows
from firstlight.data.tokenizer import PADDING, load_tokenizer
from firstlight.launch.parent import die_with, write_stacks_when_asked

app = typer.Typer(no_args_is_help=True, help="What the scripts of MINDFORMERS_HOME call.")

Home = Annotated[Path, typer.Option(help="MINDFORMERS_HOME.", show_default=False)]
Words = Annotated[list[str] | None, typer.Argument(metavar="[WORD]...", help="After --, as that script takes them.")]


def home_folder(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Where; default: in the user's cache folder.", show_default=False),
    ] = None,
) -> None:
    """Make the folder that serves as MINDFORMERS_HOME, and print its name.

    YAML and JSON files that are there stay as they are.
    """
    typer.echo(make_home((folder or user_cache_folder() / "firstlight" / "mindformers").absolute()))


@app.command("run")
def run(
    home: Home,
    words: Words = None,
    log_folder: Annotated[
        Path | None, typer.Option(help="Write to worker logs in this folder; given by launch.", show_default=False)
    ] = None,
) -> None:
    """Train, as run_mindformer.py is told to: in this process, as one rank of as many as a launcher has started."""
    world = World.from_environment()
    if log_folder is not None:
        log_to_worker(log_folder, world)
    log.set_up(rank=world.rank)
    if log_folder is not None:
        log_as_mindformers()
        log_to_rank(world)
    if world.launcher_pid is not None:
        die_with(world.launcher_pid)
        write_stacks_when_asked(world)
    with failures_reported(world, logs=None):
        request = with_weights(read_run_arguments(words or [], home), world.size, converts=world.size == 1)
        read = _read(request, world.size)
        read.loaded.require_rules(world_size=world.size)
        sys.exit(train_here(read, world, []))


@app.command("launch")
def launch(
    home: Home,
    words: Words = None,
    log_suffix: Annotated[str, typer.Option(help="MF_LOG_SUFFIX.", show_default=False)] = "",
    in_background: Annotated[
        bool, typer.Option("--in-background", help="This is the launcher that went on in the background.")
    ] = False,
) -> None:
    """Start workers, as msrun_launcher.sh is told to."""
    asked = read_launcher_arguments(words or [], log_suffix=log_suffix)
    request = read_run_arguments(asked.arguments, home)
    is_first = asked.node_rank == 0
    request = with_weights(request, asked.num_workers, converts=is_first, wait_seconds=asked.join_seconds)
    read = _read(request, asked.num_workers)
    read.loaded.require_rules(world_size=asked.num_workers)
    check_files(read.loaded.config)
    if asked.joins or in_background:
        sys.exit(_launch(asked, read, home, in_background=in_background))
    flags = ["--home", str(home), "--log-suffix", log_suffix, "--in-background"]
    last = worker_log(asked.log_folder, asked.ranks[-1])
    path = launcher_log(asked.log_folder, asked.node_rank)
    code = start_in_background(["mindformers", "launch", *flags, "--", *(words or [])], path)
    if code == 0:
        typer.echo(f"{asked.num_local_workers} worker(s) run in the background; follow them with tail -f {last}")
    sys.exit(code)


@app.command("wikitext")
def wikitext(words: Words = None) -> None:
    """WikiText into rows of one length, as wikitext_to_bin.py is told to."""
    asked = read_wikitext_arguments(words or [])
    tokenizer = load_tokenizer(asked.tokenizer)
    begins = tokenizer.token_to_id(BEGIN) is not None
    if not begins:
        log.get_logger().warning("%s has no token %s, so paragraphs begin with none", asked.tokenizer, BEGIN)
    summary = prepare_rows(
        PrepareRequest(
            inputs=(asked.text,),
            tokenizer=asked.tokenizer,
            output_prefix=asked.output_prefix,
            held_out_fraction=0.0,
            format="wikitext",
            documents="paragraph",
            bos_token=BEGIN if begins else None,
            append_eod=asked.appends_end,
            parse_special_tokens=True,
            rows=asked.rows,
            sequence_length=asked.sequence_length,
            pad_token=_padding(tokenizer, asked.tokenizer) if asked.rows == "pad" else None,
            dtype="int32",
            workers=asked.workers,
        )
    )
    made = summary.training
    typer.echo(f"{made.prefix}.bin: {made.rows:,} rows of {asked.sequence_length + 1:,} tokens")


@app.command("builders")
def builders() -> None:
    """Say whether the compiled builders of the data order are used."""
    typer.echo(f"Firstlight uses {native.describe()}")


def _read(request: RunRequest, world_size: int) -> Configuration:
    code = _own_code(request.register_path)
    return read_configuration(request.config, _console(request), world_size, request.changes, code)


def _console(request: RunRequest) -> list[str]:
    """The steps are told in the form of the MindFormers that the file is written for: scripts read them."""
    if not is_mindformers(read_source(request.config, allows_repeats=True).values):
        return []
    is_pynative = read_old_file(request.config, request.changes).generation is Generation.PYNATIVE
    return [f"monitor.console={'mindformers_pynative' if is_pynative else 'mindformers'}"]


def _own_code(folder: Path | None) -> Path | None:
    """A folder of models for MindSpore, which is what MindFormers' lines name, has nothing to be run."""
    from firstlight.models.registered import FILE

    if folder is None or (folder / FILE).is_file():
        return folder
    log.get_logger().info("--register_path %s: there is no %s, and nothing else of it is run", folder, FILE)
    return None


def _launch(asked: LauncherRequest, read: Configuration, home: Path, *, in_background: bool) -> int:
    """Start the workers of this node, and wait for them."""
    from firstlight.cli.train import launch as launch_supervised
    from firstlight.launch.node import Node

    if not in_background:  # there, all that this process says is in that log already
        log_to_launcher(launcher_log(asked.log_folder, asked.node_rank))
    for rank in asked.ranks:
        worker_log(asked.log_folder, rank).unlink(missing_ok=True)
    folder = asked.log_folder.absolute()
    arguments = ["mindformers", "run", "--home", str(home), "--log-folder", str(folder), "--", *asked.arguments]
    node = None
    if asked.num_nodes > 1:
        node = Node(
            rank=asked.node_rank,
            count=asked.num_nodes,
            num_ranks=asked.num_local_workers,
            address=asked.master_address,
            port=asked.master_port,
            join_seconds=asked.join_seconds,
        )
    code = launch_supervised(read.loaded, arguments, asked.num_local_workers, node)
    if code:
        log.get_logger().error("the workers ended with exit code %d; their logs are in %s", code, asked.log_folder)
    return code


def _padding(tokenizer: Tokenizer, path: Path) -> str:
    """What fills rows up: the tokenizer's padding, or the end of a sentence as in DeepSeek's."""
    found = next((name for name in (PADDING, END) if tokenizer.token_to_id(name) is not None), None)
    if found is None:
        raise InputError(f"--pad-or-stitch pad: {path} has neither {PADDING} nor {END}; use stitch")
    return found
