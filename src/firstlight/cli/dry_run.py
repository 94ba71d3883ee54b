"""`firstlight dry-run`: builds ranks of a run of any size here, without the other ranks and without memory."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from firstlight.base.errors import InputError
from firstlight.cli.configuration import Overrides, WorldSize, read_configuration
from firstlight.config.schema import RunConfig
from firstlight.layout.mesh import Layout

if TYPE_CHECKING:
    from firstlight.train.dry_run import DryRank
    from firstlight.train.dry_step import DryStep

Level = Literal["shapes", "step"]


def dry_run(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.", show_default=False)],
    world_size: WorldSize = None,
    rank: Annotated[int | None, typer.Option(help="The rank to build.", min=0, show_default=False)] = None,
    ranks: Annotated[
        Literal["auto"] | None, typer.Option(help="auto: one rank of each kind.", show_default=False)
    ] = None,
    level: Annotated[Level, typer.Option(help="shapes; or step: a step without values, too.")] = "shapes",
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Build what ranks of a run would hold, by the run's own code: shards, files, samples, schedules, a step."""
    from firstlight.train.dry_run import schedule_table
    from firstlight.train.dry_run_report import schedule_lines

    read = read_configuration(config, overrides or (), world_size)
    read.loaded.require_rules(world_size=read.world_size)
    chosen = _chosen(read.loaded.config, read.world_size, rank, is_auto=ranks == "auto")
    table = schedule_table(read.loaded.config)
    if not as_json:
        for line in schedule_lines(table):
            typer.echo(line)
    found = []
    for one, step in _runs(read.loaded.config, read.world_size, chosen, level):
        found.append(_values(one, step))
        if not as_json:
            _show(one, step)
    if as_json:
        typer.echo(json.dumps({"schedules": table, "ranks": found}, indent=2))


def _chosen(config: RunConfig, world_size: int, rank: int | None, *, is_auto: bool) -> list[int]:
    from firstlight.train.dry_run import ranks_of_each_kind

    if is_auto == (rank is not None):
        raise InputError("say which ranks to build: --rank R, or --ranks auto for one of each kind")
    if rank is None:
        return ranks_of_each_kind(Layout.of(config.parallelism, world_size))
    if rank >= world_size:
        raise InputError(f"--rank {rank} is none of the {world_size} ranks; use 0 to {world_size - 1}")
    return [rank]


def _runs(
    config: RunConfig, world_size: int, ranks: list[int], level: Level
) -> Iterator[tuple["DryRank", "DryStep | None"]]:
    from firstlight.train.dry_run import dry_rank
    from firstlight.train.dry_step import dry_step

    for rank in ranks:
        shapes = dry_rank(config, world_size, rank)
        yield shapes, dry_step(config, world_size, rank) if level == "step" else None


def _values(one: "DryRank", step: "DryStep | None") -> dict[str, object]:
    stages = [{"index": stage.index, "layers": list(stage.layers)} for stage in one.stages]
    values = {**asdict(one), "stages": stages}
    return values if step is None else {**values, "step": asdict(step)}


def _show(one: "DryRank", step: "DryStep | None") -> None:
    from firstlight.train.dry_run_report import rank_lines, step_lines

    for line in (*rank_lines(one), *(() if step is None else step_lines(step))):
        typer.echo(line)
