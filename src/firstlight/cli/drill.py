"""`firstlight drill`: rehearse faults on this machine, and see what they cost."""

import random
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from firstlight.base import log
from firstlight.base.errors import InputError
from firstlight.cli.configuration import ConfigFile, File, Overrides, chosen_file, read_configuration
from firstlight.cli.train import launch
from firstlight.config.faults import KINDS

_ENDING = ("kill", "stop", "segfault", "hold_interpreter", "raise", "hang")
"""Those that a restart answers."""


def drill(
    file: File = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    nproc_per_node: Annotated[int, typer.Option("--nproc-per-node", min=2, help="Processes on this machine.")] = 2,
    faults: Annotated[str, typer.Option(help=f"Of {', '.join(KINDS)}; separated by commas.")] = ",".join(_ENDING),
    seed: Annotated[int, typer.Option(min=0, help="Of the steps and ranks that they happen to.")] = 0,
) -> None:
    """Train with faults, one after the other at chance steps and ranks; the end shows what each has cost.

    The run's folder is the configured one with -drill behind it; the exit code is 0 when the run came to its end.
    """
    log.set_up(rank=0)
    kinds = [one.strip() for one in faults.split(",") if one.strip()]
    unknown = [one for one in kinds if one not in KINDS]
    if unknown or not kinds:
        raise InputError(
            f"--faults {faults}: {', '.join(unknown) or 'nothing'} is no fault; choose of {', '.join(KINDS)}"
        )
    chosen, given = chosen_file(file, config), list(overrides or ())
    steps = read_configuration(chosen, given, nproc_per_node).loaded.config.training
    planned = _planned(kinds, last_step=steps.steps, num_ranks=nproc_per_node, seed=seed)
    folder = steps.output_folder.with_name(f"{steps.output_folder.name}-drill")
    if folder.exists():
        raise InputError(f"{folder} is of an earlier drill, whose faults have happened; remove it, or move it away")
    given += [f"resilience.inject=[{', '.join(planned)}]", f"training.output_folder={folder}"]
    loaded = read_configuration(chosen, given, nproc_per_node).loaded
    if loaded.config.resilience.snapshot_every_steps == 0:
        given.append("resilience.snapshot_every_steps=1")
        loaded = read_configuration(chosen, given, nproc_per_node).loaded
    sys.exit(launch(loaded, ["train", "--config", str(chosen), *_flags(given)], nproc_per_node))


def _planned(kinds: Sequence[str], *, last_step: int, num_ranks: int, seed: int) -> list[str]:
    """The faults in YAML, in different steps after the first."""
    if last_step <= len(kinds) + 1:
        raise InputError(
            f"training.steps = {last_step} leaves no room for {len(kinds)} faults in steps of their own; "
            f"use at least --set training.steps={len(kinds) + 2}"
        )
    source = random.Random(seed)
    steps = sorted(source.sample(range(2, last_step), len(kinds)))
    return [
        f"{{kind: {kind}, rank: {source.randrange(num_ranks)}, step: {step}}}"
        for kind, step in zip(kinds, steps, strict=True)
    ]


def _flags(overrides: Sequence[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]
