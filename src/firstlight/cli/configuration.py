"""The run's YAML file as verbs take it: one of ours, or one of MindFormers, which is translated in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.base.errors import InputError
from firstlight.cli.model import read_model
from firstlight.compat.change import Change
from firstlight.compat.old_file import is_mindformers
from firstlight.compat.translation import translate
from firstlight.config.load import Loaded, load_source
from firstlight.config.source import Source, read_source
from firstlight.data.mindrecord_reader import MindRecordReader

if TYPE_CHECKING:
    from firstlight.models.registered import Registered

TRANSLATED = "translated.yaml"
"""What a translation is called in a run's folder, beside the files that it was made from."""

File = Annotated[Path | None, typer.Argument(metavar="FILE", help="The run's YAML file.", show_default=False)]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="The run's YAML file, as FILE.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace one value, as optimizer.learning_rate=1e-3. Repeatable."),
]
RegisterPath = Annotated[
    Path | None,
    typer.Option(
        help="Run firstlight_model.py in this folder, and train the model class that it registers.", show_default=False
    ),
]
WorldSize = Annotated[
    int | None,
    typer.Option(
        help="The number of processes; default: 1, or as many as a MindFormers file is written for.",
        min=1,
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A valid configuration, and the files to be kept beside it: the ones it was translated from."""

    loaded: Loaded
    world_size: int
    """The processes it is read for."""
    beside: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a translation did otherwise than the file says."""
    own_model: "Registered | None" = None
    """A model class of the user's own."""


def chosen_file(file: Path | None, config: Path | None) -> Path:
    """The one of the two that was given."""
    if file is not None and config is not None and file != config:
        raise typer.BadParameter(f"{file} and --config {config} name two files; give one")
    chosen = file or config
    if chosen is None:
        raise typer.BadParameter("name the run's YAML file")
    return chosen


def read_configuration(
    path: Path,
    overrides: Sequence[str],
    world_size: int | None,
    changes: Sequence[Change] = (),
    register_path: Path | None = None,
) -> Configuration:
    """Read and validate `path`; a MindFormers file is translated for `world_size` processes first. Raises InputError.

    Without `world_size` it is that of the MindFormers file, or 1.
    `overrides` are laid over the keys of our schema in either case, `changes` over those of a MindFormers file.
    The code in `register_path` is run first; a user must have named it on the command line.
    """
    own_model = None if register_path is None else _registered(register_path)
    read = _read(path, overrides, world_size, changes, own_model)
    if own_model is not None:
        own_model.require_family(read.loaded.config.model)
    return read


def _registered(folder: Path) -> "Registered":
    # Torch is loaded for it alone.
    from firstlight.models.registered import register

    return register(folder)


def _read(
    path: Path,
    overrides: Sequence[str],
    world_size: int | None,
    changes: Sequence[Change],
    own_model: "Registered | None",
) -> Configuration:
    if not is_mindformers(read_source(path, allows_repeats=True).values):
        if changes:
            raise InputError(f"{changes[0].origin}: {path} is no MindFormers file; use firstlight train with --set")
        loaded = load_source(read_source(path), str(path), overrides, read_model)
        return Configuration(loaded=loaded, world_size=world_size or 1, own_model=own_model)
    names = {} if own_model is None else dict.fromkeys(own_model.model.names, own_model.model.family)
    translated = translate(path, world_size=world_size, count_rows=count_rows, changes=changes, registered=names)
    native = Source(values=translated.values, origins=dict(translated.origins))
    loaded = load_source(native, f"{path}, translated,", overrides, read_model)
    beside = {f"mindformers-{name}": text for name, text in translated.old_texts.items()}
    return Configuration(
        loaded=loaded,
        world_size=world_size or translated.world_size or 1,
        beside={**beside, TRANSLATED: translated.text},
        notes=translated.notes,
        own_model=own_model,
    )


def count_rows(path: Path) -> int | None:
    """Rows of the MindRecord set of a file, or of all files of that name and a number; None where there is none.

    Raises InputError when it is damaged.
    """
    if not path.is_file() and not any(path.parent.glob(f"{path.name}[0-9]*")):
        return None
    with MindRecordReader.open(path) as reader:
        return len(reader)
