"""`firstlight launch`: a run on this machine, on several that are started by hand, under Slurm, or in Kubernetes."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.base.errors import InputError
from firstlight.base.world import node_start
from firstlight.cli.config import check_files
from firstlight.cli.configuration import TRANSLATED, Configuration, Overrides, RegisterPath, read_configuration
from firstlight.cli.train import Accepted, run_arguments
from firstlight.cli.train import launch as launch_supervised
from firstlight.launch.kubernetes import Kind, Pods, manifest
from firstlight.launch.slurm import SlurmJob, slurm_script, submit

if TYPE_CHECKING:
    from firstlight.launch.node import Node

app = typer.Typer(no_args_is_help=True, help="Start a run on one machine or many, or write what starts it.")

_PORT = 29400
_JOIN_SECONDS = 600

File = Annotated[Path, typer.Argument(metavar="FILE", help="The run's YAML file.", show_default=False)]
PerNode = Annotated[int, typer.Option("--nproc-per-node", min=1, help="Processes on each machine.", show_default=False)]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Machines.", show_default=False)]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file; default: print it.", show_default=False)
]


@app.command("local")
def local(
    file: File,
    nproc_per_node: PerNode,
    overrides: Overrides = None,
    accept_change: Accepted = None,
    register_path: RegisterPath = None,
) -> None:
    """Train on this machine, as `firstlight train --nproc-per-node`."""
    read = _read_whole(file, overrides, nproc_per_node, register_path)
    arguments = run_arguments(file, overrides, accept_change, register_path)
    sys.exit(launch_supervised(read.loaded, arguments, nproc_per_node))


@app.command("nodes")
def nodes(  # noqa: PLR0913  (one argument for each flag of the verb)
    file: File,
    nproc_per_node: PerNode,
    hosts: Annotated[
        str | None,
        typer.Option(help="Addresses or names of all machines, with commas; the first leads. The same on each."),
    ] = None,
    num_nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Machines, without --hosts.")] = None,
    node_rank: Annotated[int | None, typer.Option(min=0, help="This one of them, from 0 on.")] = None,
    master_addr: Annotated[str | None, typer.Option(help="Address or name of machine 0.")] = None,
    master_port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens for the others.")] = _PORT,
    join_seconds: Annotated[int, typer.Option(min=1, help="How long they wait for each other.")] = _JOIN_SECONDS,
    overrides: Overrides = None,
    accept_change: Accepted = None,
    register_path: RegisterPath = None,
) -> None:
    """Train on several machines: give this command on each of them.

    Under Slurm or MPI, with one on each machine, their environment says which machine this is.
    """
    from firstlight.launch.node import Node
    from firstlight.launch.place import known, node_of_hosts, node_of_start

    given = (num_nodes, node_rank, master_addr)
    start = node_start()
    if hosts is not None and given == (None, None, None):
        node = node_of_hosts(hosts.split(","), num_ranks=nproc_per_node, port=master_port, join_seconds=join_seconds)
    elif hosts is None and num_nodes is not None and node_rank is not None and master_addr is not None:
        if node_rank >= num_nodes:
            raise InputError(f"--node-rank {node_rank} is none of the {num_nodes} machines; use 0 to {num_nodes - 1}")
        node = Node(
            rank=node_rank,
            count=num_nodes,
            num_ranks=nproc_per_node,
            address=master_addr,
            port=master_port,
            join_seconds=join_seconds,
        )
    elif hosts is None and given == (None, None, None) and start is not None:
        node = node_of_start(start, num_ranks=nproc_per_node, join_seconds=join_seconds)
    else:
        raise InputError(
            "say which machine this is: --hosts with all of them, or --nodes, --node-rank and --master-addr; neither "
            "is needed where srun or mpirun has started this on several"
        )
    world_size = node.count * nproc_per_node
    read = _read_whole(file, overrides, world_size, register_path)
    arguments = run_arguments(file, overrides, accept_change, register_path)
    sys.exit(_launch_node(read, arguments, nproc_per_node, known(node)))


@app.command("slurm")
def slurm(  # noqa: PLR0913  (one argument for each flag of the verb)
    file: File,
    num_nodes: Nodes,
    nproc_per_node: PerNode,
    options: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="NAME=VALUE", help="An option of sbatch, as time=12:00:00. Repeatable."),
    ] = None,
    setup: Annotated[
        list[str] | None, typer.Option(metavar="LINE", help="A line of shell before the start. Repeatable.")
    ] = None,
    output: Output = None,
    submits: Annotated[bool, typer.Option("--submit", help="Hand the written file to sbatch.")] = False,
    overrides: Overrides = None,
    register_path: RegisterPath = None,
) -> None:
    """Print, write or submit a batch script for Slurm."""
    _read_whole(file, overrides, num_nodes * nproc_per_node, register_path)
    place = ["--nproc-per-node", str(nproc_per_node)]
    job = SlurmJob(
        command=["firstlight", "launch", "nodes", str(file), *place, *_flags(overrides, register_path)],
        num_nodes=num_nodes,
        name=file.stem,
        options=options or (),
        setup=setup or (),
    )
    text = slurm_script(job)
    if submits and output is None:
        raise InputError("--submit needs --output: the script stays, to be read and submitted again")
    _put(text, output)
    if submits and output is not None:
        typer.echo(submit(output))


@app.command("kubernetes")
def kubernetes(  # noqa: PLR0913  (one argument for each flag of the verb)
    file: File,
    num_nodes: Nodes,
    nproc_per_node: PerNode,
    image: Annotated[str, typer.Option(help="A container image with firstlight.", show_default=False)],
    claim: Annotated[
        list[str],
        typer.Option(metavar="NAME=FOLDER", help="A volume claim, mounted there. Relative paths begin at the first."),
    ],
    kind: Annotated[Kind, typer.Option(help="Of the training operator, or of JobSet.")] = "pytorchjob",
    name: Annotated[str | None, typer.Option(help="Of the job; default: that of the file.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Where it runs.")] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=AMOUNT", help="Of each machine, as nvidia.com/gpu=8. Repeatable."),
    ] = None,
    output: Output = None,
    overrides: Overrides = None,
    register_path: RegisterPath = None,
) -> None:
    """Print or write a manifest for Kubernetes, for kubectl apply -f."""
    # Its files lie where the pods are.
    read = read_configuration(file, overrides or (), num_nodes * nproc_per_node)
    read.loaded.require_rules(world_size=num_nodes * nproc_per_node)
    pods = Pods(
        kind=kind,
        name=name or file.stem.lower().replace("_", "-").replace(".", "-"),
        image=image,
        num_nodes=num_nodes,
        num_processes=nproc_per_node,
        config_text=read.beside.get(TRANSLATED) or file.read_text(encoding="utf-8"),
        arguments=_flags(overrides, register_path),
        namespace=namespace,
        claims=_pairs("--claim", claim),
        resources=_pairs("--resource", resource or []),
    )
    _put(manifest(pods), output)


def _launch_node(read: Configuration, arguments: list[str], num_processes: int, node: "Node") -> int:
    return launch_supervised(read.loaded, arguments, num_processes, node if node.count > 1 else None)


def _read_whole(file: Path, overrides: list[str] | None, world_size: int, register_path: Path | None) -> Configuration:
    """What is wrong with the run is said here, before machines are asked for."""
    read = read_configuration(file, overrides or (), world_size, register_path=register_path)
    read.loaded.require_rules(world_size=world_size)
    check_files(read.loaded.config)
    return read


def _flags(overrides: list[str] | None, register_path: Path | None) -> list[str]:
    flags = [word for one in overrides or () for word in ("--set", one)]
    return flags if register_path is None else [*flags, "--register-path", str(register_path)]


def _pairs(flag: str, texts: list[str]) -> dict[str, str]:
    pairs = dict(text.split("=", 1) for text in texts if "=" in text.strip("="))
    if len(pairs) != len(texts):
        raise InputError(f"{flag} {shlex.join(texts)}: expected NAME=VALUE, each name once")
    return pairs


def _put(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error}") from None
    typer.echo(f"{output} is written")
