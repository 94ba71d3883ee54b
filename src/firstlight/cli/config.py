"""`firstlight config`: look at a configuration without starting anything; torch is loaded for `from_hf` only."""

import json
from pathlib import Path
from typing import Annotated

import typer

from firstlight.base.errors import InputError
from firstlight.cli.configuration import ConfigFile, File, Overrides, WorldSize, chosen_file, read_configuration
from firstlight.cli.model import read_model
from firstlight.config.load import dump, dump_section
from firstlight.config.scheduled_numbers import scheduled_numbers
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import Stretch, Timeline, sequence_lengths, timeline_of
from firstlight.data.open import open_held_out
from firstlight.data.source import Surroundings, open_source
from firstlight.data.tokenizer import check_vocabulary
from firstlight.layout.batch import accumulation_steps
from firstlight.layout.counts import count_parameters, flops_per_token
from firstlight.layout.mesh import Layout
from firstlight.optim.schedule import number_at

app = typer.Typer(no_args_is_help=True, help="Show, check or describe a run's configuration.")


@app.command()
def show(
    file: File = None, config: ConfigFile = None, overrides: Overrides = None, world_size: WorldSize = None
) -> None:
    """Print the configuration with every default, and what follows from it."""
    read = read_configuration(chosen_file(file, config), overrides or (), world_size)
    read.loaded.require_rules(world_size=read.world_size)
    typer.echo(dump(read.loaded.config), nl=False)
    for line in derived_facts(read.loaded.config, read.world_size):
        typer.echo(f"# {line}")


@app.command()
def check(
    file: File = None, config: ConfigFile = None, overrides: Overrides = None, world_size: WorldSize = None
) -> None:
    """Check keys, values, rules and files; exit code 2 with every fault when something is wrong."""
    chosen = chosen_file(file, config)
    read = read_configuration(chosen, overrides or (), world_size)
    read.loaded.require_rules(world_size=read.world_size)
    check_files(read.loaded.config)
    typer.echo(f"{chosen} is valid for {read.world_size} process(es)")


@app.command()
def schedule(
    file: File = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    world_size: WorldSize = None,
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("schedule.html"),
) -> None:
    """Draw the learning rate, and every other number that changes over the run, as one HTML page."""
    # Plotly takes a while to load, and the other verbs have no need of it.
    from firstlight.observe.schedule_page import Course, write_schedule

    chosen = chosen_file(file, config)
    read = read_configuration(chosen, overrides or (), world_size)
    loaded = read.loaded
    loaded.require_rules(world_size=read.world_size)
    timeline = timeline_of(loaded.config)
    courses = [
        Course(name=name, value_at=number_at(number, timeline), description=number.schedule.type)
        for name, number in scheduled_numbers(loaded.config).items()
    ]
    if len(timeline.stretches) > 1:
        courses += [
            Course(
                name="training.global_batch_size",
                value_at=lambda step: timeline.at(step).batch_size,
                description="sequences of a step",
            ),
            Course(
                name="data.train.sequence_length",
                value_at=lambda step: timeline.at(step).sequence_length,
                description="tokens of a sequence",
            ),
        ]
    typer.echo(write_schedule(chosen.name, courses, timeline, output))


@app.command("from-hf")
def from_hf(
    folder: Annotated[Path, typer.Argument(help="A Hugging Face folder with a config.json.", show_default=False)],
) -> None:
    """Print the model section that a Hugging Face config.json describes; what is not supported is refused by name."""
    section = read_model({"from_hf": str(folder)})
    typer.echo(dump_section({"model": section}), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration file, for editors and generators."""
    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


def check_files(config: RunConfig) -> None:
    """The files that the configuration names are there and whole, and the tokenizer fits the model."""
    check_vocabulary(config.data.tokenizer, config.model.vocab_size)
    train, evaluate = config.data.train, config.data.held_out.values()
    prefixes = [one.path for one in (*train.sources, *evaluate) if one.kind == "megatron"]
    missing = [
        f"{prefix}{suffix}"
        for prefix in prefixes
        for suffix in (".idx", ".bin")
        if not Path(f"{prefix}{suffix}").exists()
    ]
    if missing:
        raise InputError("data files do not exist: " + ", ".join(missing) + "; `firstlight prepare` makes them")
    around = Surroundings(train=train, tokenizer=config.data.tokenizer, seed=config.training.seed)
    for number in range(len(train.sources)):
        open_source(around, number)
    for held_out in evaluate:
        for length in set(sequence_lengths(config).values()):
            open_held_out(held_out, length)


def derived_facts(config: RunConfig, world_size: int) -> list[str]:
    """What follows from a configuration on `world_size` processes, a line each."""
    layout = Layout.of(config.parallelism, world_size)
    counts = count_parameters(config.model)
    timeline = timeline_of(config)
    return [
        *layout.describe().splitlines(),
        f"parameters: {counts.total:,}, of which a token passes {counts.activated:,}",
        *(line for stretch in _last_of_phases(timeline) for line in _facts_of(config, layout, stretch)),
        f"tokens in all: {timeline.tokens:,}",
    ]


def _last_of_phases(timeline: Timeline) -> list[Stretch]:
    """The last stretch of each phase, when the batch has grown."""
    return list({stretch.phase: stretch for stretch in timeline.stretches}.values())


def _facts_of(config: RunConfig, layout: Layout, stretch: Stretch) -> list[str]:
    accumulation = accumulation_steps(
        global_batch_size=stretch.batch_size,
        micro_batch_size=config.training.micro_batch_size,
        data_size=layout.data_size,
    )
    flops = flops_per_token(config.model, stretch.sequence_length)
    where = f"phases.{stretch.phase - 1}: " if stretch.phase else ""
    return [
        f"{where}FLOPs per token, forward and backward, causal attention: {flops:.4g}",
        f"{where}micro-batches per rank and step: {accumulation}",
        f"{where}tokens per step: {stretch.tokens_per_step:,}",
    ]
