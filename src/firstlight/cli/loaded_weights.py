"""Weights of MindSpore that a MindFormers file begins with: converted once, in the run's folder, before it starts."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.cli.configuration import count_rows, read_configuration
from firstlight.compat.change import Change
from firstlight.compat.loaded_path import foreign_weights
from firstlight.compat.old_file import is_mindformers, read_old_file
from firstlight.compat.run_arguments import RunRequest
from firstlight.compat.translation import translate
from firstlight.config.model import ModelConfig
from firstlight.config.source import read_source

FOLDER = "converted-weights"
_POLL_SECONDS = 0.5


def with_weights(request: RunRequest, world_size: int, *, converts: bool, wait_seconds: int = 0) -> RunRequest:
    """The request, with a Hugging Face folder in the place of weights in a format of MindSpore.

    They are written to FOLDER in the run's folder if they are not there and this process `converts`; another one waits
    for them. Raises InputError when they are not of the file's model, FirstlightError when they do not come.
    """
    if not is_mindformers(read_source(request.config, allows_repeats=True).values):
        return request
    found = foreign_weights(read_old_file(request.config, request.changes))
    if found is None:
        return request
    key, path = found
    without = (*request.changes, Change(key=key, text='""', origin=f"{key} {path}"))
    config = read_configuration(request.config, (), world_size, without).loaded.config
    target = config.training.output_folder / FOLDER / f"{path.name}-{_state_of(path)}"
    if not target.exists() and converts:
        layouts = translate(request.config, world_size=world_size, count_rows=count_rows, changes=without).layouts
        _convert(path, target, config.model, layouts)
    _wait_for(target, wait_seconds)
    return replace(request, changes=(*without[:-1], replace(without[-1], text=str(target))))


def _convert(path: Path, target: Path, model: ModelConfig, layouts: Mapping[str, str]) -> None:
    from firstlight.convert.conversion import Conversion, ConversionPlan
    from firstlight.convert.formats import format_named, format_of
    from firstlight.convert.mindformers_weights import MindFormersChoices
    from firstlight.convert.progress import shown_progress
    from firstlight.convert.weight_format import ReadChoices

    row = format_of(path)
    layout = MindFormersChoices(
        is_interleaved=layouts.get("gate_up") != "joined", is_grouped=layouts.get("qkv") != "joined"
    )
    choices = ReadChoices(model=model, mindformers=layout)
    opened = row.open(path, choices)
    plan = ConversionPlan(
        Conversion(origin=path, opened=opened, choices=choices, target=format_named("huggingface"), output=target)
    )
    get_logger().info(
        f"{path} ({row.name}): {plan.num_tensors} tensors of weights to begin with are converted into {target}; an "
        "optimizer's state and a step are not taken from there"
    )
    with shown_progress(f"{row.name} to huggingface", plan.num_bytes) as advance:
        plan.run(advance)


def _wait_for(target: Path, seconds: int) -> None:
    end = time.monotonic() + seconds
    while not target.exists():
        if time.monotonic() > end:
            raise FirstlightError(f"{target} is not there: node 0 converts the weights to it; is the folder shared?")
        time.sleep(_POLL_SECONDS)


def _state_of(path: Path) -> str:
    """A name for the files as they are: by name, size and time."""
    digest = hashlib.sha256(str(path.absolute()).encode())
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\0".encode())
    return digest.hexdigest()[:12]
