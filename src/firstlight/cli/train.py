"""`firstlight train`: in this process, as one rank of many, or starting several processes here."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.base import log
from firstlight.base.errors import FirstlightError, InputError
from firstlight.base.failure import failures_reported
from firstlight.base.world import World, leave_exit_code
from firstlight.cli.config import check_files
from firstlight.cli.configuration import (
    ConfigFile,
    Configuration,
    File,
    Overrides,
    RegisterPath,
    chosen_file,
    read_configuration,
)
from firstlight.config.load import Loaded
from firstlight.launch.parent import die_with, write_stacks_when_asked

if TYPE_CHECKING:
    from firstlight.launch.node import Node
    from firstlight.launch.sizes import Sizes
    from firstlight.train.loop import Outcome

NumProcesses = Annotated[
    int | None, typer.Option("--nproc-per-node", min=1, help="Start this many processes on this machine.")
]

NumNodes = Annotated[int, typer.Option("--nodes", min=1, help="Machines of the run; this command is given on each.")]
NodeRank = Annotated[
    int | None, typer.Option("--node-rank", min=0, help="Of this machine, from 0 on.", show_default=False)
]
Master = Annotated[
    str | None,
    typer.Option("--master", metavar="HOST:PORT", help="Where node 0 listens to the others.", show_default=False),
]

Accepted = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-change",
        metavar="NAME",
        help="Let this change to an earlier part of the run pass, and record it: data, tokenizer, or a key.",
        show_default=False,
    ),
]


def train(  # noqa: PLR0913  (one argument for each flag of the verb)
    file: File = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    nproc_per_node: NumProcesses = None,
    accept_change: Accepted = None,
    register_path: RegisterPath = None,
    nodes: NumNodes = 1,
    node_rank: NodeRank = None,
    master: Master = None,
) -> None:
    """Train from a YAML file. Started again with the same command, a run goes on from its last checkpoint.

    A YAML file of MindFormers is translated first, as `firstlight translate` shows.
    """
    chosen = chosen_file(file, config)
    world = World.from_environment()
    log.set_up(rank=world.rank)
    if world.launcher_pid is not None:
        die_with(world.launcher_pid)
        write_stacks_when_asked(world)
    with failures_reported(world, logs=None):
        if world.serves_store:
            from firstlight.launch.place import use_route

            use_route(world)
        num_ranks = nodes * (nproc_per_node or world.whole_size)
        read = read_configuration(chosen, overrides or (), num_ranks, register_path=register_path)
        if (nproc_per_node is not None or nodes > 1) and world.size > 1:
            raise InputError(
                "--nproc-per-node was given to a process that a launcher has started already; leave it out, or use "
                "firstlight launch nodes, one on each machine"
            )
        if nodes > 1 or (nproc_per_node or 1) > 1:
            per_node = nproc_per_node or 1
            node = _node(nodes, node_rank, master, per_node) if nodes > 1 else None
            arguments = run_arguments(chosen, overrides, accept_change, register_path)
            sys.exit(launch(read.loaded, arguments, per_node, node))
        here = replace(read, loaded=read.loaded.on_fewer(world.size, whole=world.whole_size))
        here.loaded.require_rules(world_size=world.size)
        sys.exit(train_here(here, world, accept_change or []))


def _node(num_nodes: int, rank: int | None, master: str | None, num_ranks: int) -> "Node":
    """Which of several machines this is. Raises InputError."""
    from firstlight.launch.node import JOIN_SECONDS, Node

    host, _, port = (master or "").rpartition(":")
    if not host or not port.isdecimal() or rank is None:
        raise InputError("--nodes also needs --node-rank N and --master HOST:PORT, an address of node 0")
    if rank >= num_nodes:
        raise InputError(f"--node-rank {rank} is not one of the {num_nodes} of --nodes; use 0 to {num_nodes - 1}")
    return Node(
        rank=rank, count=num_nodes, num_ranks=num_ranks, address=host, port=int(port), join_seconds=JOIN_SECONDS
    )


def run_arguments(
    config: Path,
    overrides: list[str] | None = None,
    accepted: list[str] | None = None,
    register_path: Path | None = None,
) -> list[str]:
    """What a rank is started with."""
    arguments = ["train", "--config", str(config)]
    code = [] if register_path is None else [str(register_path)]
    for flag, values in (("--set", overrides), ("--accept-change", accepted), ("--register-path", code)):
        for value in values or ():
            arguments += [flag, value]
    return arguments


def launch(loaded: Loaded, arguments: list[str], num_processes: int, node: "Node | None" = None) -> int:
    """Check here, so that what is wrong is said once; then start the ranks, of one machine or of this `node`."""
    from firstlight.launch.channel import job_token
    from firstlight.launch.ledger import Ledger
    from firstlight.launch.local import launch_local
    from firstlight.launch.member import Group
    from firstlight.launch.nodes import launch_nodes
    from firstlight.launch.supervisor import Supervisor
    from firstlight.train.last_state import last_state_saver

    loaded.require_rules(world_size=num_processes * (node.count if node else 1))
    check_files(loaded.config)
    folder = loaded.config.training.output_folder
    save_last_state = last_state_saver(loaded.config, None if node is None else node.rank)
    supervisor = Supervisor(config=loaded.config.resilience, ledger=Ledger(folder), save_last_state=save_last_state)
    if node is not None:
        group = Group(token=job_token(folder), sizes=_sizes(loaded, node))
        return launch_nodes(arguments, node=node, supervisor=supervisor, group=group)
    return launch_local(arguments, num_processes=num_processes, supervisor=supervisor)


def _sizes(loaded: Loaded, node: "Node") -> "Sizes":
    """With how many nodes the run goes on. Raises InputError when it asks for more than there are."""
    from firstlight.launch.sizes import Sizes

    fewest = loaded.config.resilience.min_nodes or node.count
    if fewest > node.count:
        raise InputError(f"resilience.min_nodes = {fewest} is more than the {node.count} nodes of the run; use fewer")
    whole = node.count * node.num_ranks
    return Sizes(
        fewest=fewest,
        most=node.count,
        refusal=cache(lambda count: loaded.refusal(count * node.num_ranks, whole=whole)),
    )


def train_here(read: Configuration, world: World, accepted: list[str]) -> int:
    """Train as the rank that `world` says, and tell the launcher how it ended; the exit code."""
    from firstlight.train.train import train as train_rank

    if world.rank == 0:
        for note in read.notes:
            log.get_logger().warning("translated: %s", note)
        if read.own_model is not None:
            log.get_logger().info(read.own_model.describe())
    exit_code = FirstlightError.exit_code
    try:
        outcome = train_rank(read.loaded.config, world, accepted, beside=read.beside, own_model=read.own_model)
        exit_code = outcome.exit_code
    except FirstlightError as error:
        exit_code = error.exit_code
        raise
    finally:
        leave_exit_code(world, exit_code)
    if world.rank == 0:
        _say_how_it_ended(outcome, read.loaded.config.training.output_folder)
    return outcome.exit_code


def _say_how_it_ended(outcome: "Outcome", folder: Path) -> None:
    logger = log.get_logger()
    if outcome.exit_code:
        logger.error("stopped after step %d: %s; saved in %s", outcome.step, outcome.reason, folder)
    elif outcome.first_step == outcome.step:
        logger.info("nothing to do: %s holds all %d steps already", folder, outcome.step)
    else:
        logger.info("done: steps %d to %d, in %s", outcome.first_step + 1, outcome.step, folder)
