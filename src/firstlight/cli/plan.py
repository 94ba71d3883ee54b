"""`firstlight plan`: what a run will need and take, before any device is held; without torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.configuration import Overrides, WorldSize, read_configuration
from firstlight.config.load import dump, dump_section
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of

if TYPE_CHECKING:
    from firstlight.plan.forecast import Forecast

PROFILES = "a100, ascend-910b, b200, cpu, gb200, h100, h200 or h800"
"""As help says them; a test holds them to the files."""


def plan(  # noqa: PLR0913  (one argument for each flag of the verb)
    config: Annotated[Path, typer.Argument(help="The run's YAML file.", show_default=False)],
    hardware: Annotated[str, typer.Option(help=f"A profile ({PROFILES}), or a YAML file like one.")] = "h100",
    world_size: WorldSize = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also draw memory and pipeline as a page.", show_default=False)
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="metrics.jsonl of a run of this configuration, to fit the profile to.", show_default=False),
    ] = None,
    save_hardware: Annotated[
        Path | None, typer.Option(help="Write the fitted profile, for --hardware.", show_default=False)
    ] = None,
    is_search: Annotated[bool, typer.Option("--search", help="Look for the fastest layout instead.")] = False,
    pin: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="With --search: keep this as it is. Repeatable.", show_default=False),
    ] = None,
    save_config: Annotated[
        Path | None, typer.Option(help="With --search: write the run with the best layout.", show_default=False)
    ] = None,
) -> None:
    """Predict memory, time and cost of a run. What does not fit is refused (exit code 2), with what would."""
    from firstlight.plan.calibration import as_yaml, calibrated, measured_step_seconds
    from firstlight.plan.cost import cost_of
    from firstlight.plan.fit import require_memory
    from firstlight.plan.forecast import forecast
    from firstlight.plan.hardware import read_hardware
    from firstlight.plan.report import as_text, as_values
    from firstlight.plan.work import Work

    read = read_configuration(config, overrides or (), world_size)
    loaded = read.loaded
    if is_search:
        _search(
            Wanted(config=loaded.config, world_size=read.world_size, pins=pin or [], file=save_config),
            hardware,
            as_json=as_json,
        )
        return
    loaded.require_rules(world_size=read.world_size)
    profile = read_hardware(hardware)
    work = Work.of(loaded.config, read.world_size, profile.kernels)
    if calibrate is not None:
        profile = calibrated(profile, work, measured_step_seconds(calibrate), f"fitted to {calibrate}")
    if save_hardware is not None:
        save_hardware.write_text(as_yaml(profile), encoding="utf-8")
    found = forecast(work, profile, loaded.config.offload)
    cost = cost_of(found, float(timeline_of(loaded.config).tokens))
    typer.echo(json.dumps(as_values(found, cost), indent=2) if as_json else as_text(found, cost))
    if html is not None:
        _draw(config.name, found, html)
    require_memory(found, loaded.config.offload)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a search is asked for: a layout for the run on so many ranks, and the file in which it is written."""

    config: RunConfig
    world_size: int
    pins: Sequence[str]
    file: Path | None


def _search(wanted: Wanted, hardware: str, *, as_json: bool) -> None:
    from firstlight.plan.candidates import read_pins
    from firstlight.plan.hardware import read_hardware
    from firstlight.plan.search import search
    from firstlight.plan.search_report import search_lines, search_values

    found = search(wanted.config, wanted.world_size, read_hardware(hardware), read_pins(wanted.pins))
    best = found.best.candidate.of(wanted.config)
    if as_json:
        typer.echo(json.dumps(search_values(found), indent=2))
    else:
        typer.echo("\n".join(search_lines(found)))
        values = best.model_dump(mode="json")
        sections = {name: values[name] for name in ("parallelism", "recompute")}
        typer.echo("\n" + dump_section({**sections, "training": {"micro_batch_size": best.training.micro_batch_size}}))
    if wanted.file is not None:
        wanted.file.write_text(dump(best), encoding="utf-8")


def _draw(title: str, found: "Forecast", output: Path) -> None:
    """Plotly takes a while to load."""
    from firstlight.observe.plan_page import Bar, Block, write_plan

    bars = [Bar(name=f"place {place}", parts=vars(one)) for place, one in enumerate(found.memory)]
    blocks = [
        Block(
            rank=rank, begin=event.begin, end=event.end, kind=action.kind, stage=action.stage, number=action.micro_batch
        )
        for rank, events in enumerate(found.timeline.events)
        for event in events
        for action in event.slot
    ]
    write_plan(title, bars, found.hardware.memory_bytes.value, blocks, output)
