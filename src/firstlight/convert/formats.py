"""The table of formats: one row each. A new one is a row here, and what it names."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from firstlight.base.errors import InputError
from firstlight.checkpoint.key import read_key
from firstlight.config.load import load
from firstlight.config.model import ModelConfig
from firstlight.config.timeline import model_after
from firstlight.convert import hub_weights, mindformers_weights, run_weights
from firstlight.convert.hub_output import finish_hub_folder
from firstlight.convert.hub_section import read_section
from firstlight.convert.mindformers_blocks import is_block_folder, open_blocks
from firstlight.convert.mindformers_ranks import is_rank_folders, open_ranks
from firstlight.convert.mindformers_weights import MindFormersChoices
from firstlight.convert.mindspore_ckpt_reader import MindSporeCkpt
from firstlight.convert.mindspore_ckpt_writer import MindSporeCkptWriter
from firstlight.convert.safetensors_files import SafetensorsFiles
from firstlight.convert.safetensors_writer import PlannedTensor, SafetensorsWriter
from firstlight.convert.source import WeightSource
from firstlight.convert.weight_format import OpenedWeights, Output, ReadChoices, WeightFormat
from firstlight.models.family import family_of
from firstlight.models.mindformers_rows import MindFormersLayout, mindformers_table
from firstlight.models.names import NameTable

_SHARD_BYTES = 5 * 10**9
_RUN_FILES = ("config.yaml", "checkpoints")


def _open_run(path: Path, choices: ReadChoices) -> OpenedWeights:
    config = load(path / _RUN_FILES[0]).config
    if choices.at is not None and not choices.at.isdigit():
        raise InputError(f"{choices.at} is no step of a run; give a number with --at")
    step = None if choices.at is None else int(choices.at)
    key = read_key(config.checkpoint.key_file)
    weights = run_weights.named_weights(config.model, path / _RUN_FILES[1], step, key)
    assert isinstance(weights.source, run_weights.RunWeights)
    return OpenedWeights(model=model_after(config, weights.source.step), weights=weights)


def _open_hub(path: Path, choices: ReadChoices) -> OpenedWeights:
    model = choices.model or ModelConfig.model_validate(read_section(path))
    return OpenedWeights(model=model, weights=hub_weights.named_weights(model, path))


def _open_ranks(path: Path, choices: ReadChoices) -> OpenedWeights:
    return _mindformers(path, open_ranks(path, at=choices.at, strategy=choices.strategy), choices)


def _open_blocks(path: Path, choices: ReadChoices) -> OpenedWeights:
    return _mindformers(path, open_blocks(path, at=choices.at), choices)


def _open_ckpt(path: Path, choices: ReadChoices) -> OpenedWeights:
    return _mindformers(path, MindSporeCkpt(path), choices)


def _open_safetensors(path: Path, choices: ReadChoices) -> OpenedWeights:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return _mindformers(path, SafetensorsFiles(path, files), choices)


def _refuse_megatron(path: Path, choices: ReadChoices) -> OpenedWeights:  # noqa: ARG001  # as the other formats
    raise InputError(
        f"{path} is Megatron's torch_dist format: its metadata and blocks are pickles, which are never loaded here; "
        "write a Hugging Face folder with Megatron's own tools, and convert that"
    )


def _mindformers(path: Path, source: WeightSource, choices: ReadChoices) -> OpenedWeights:
    model = choices.required_model(path)
    return OpenedWeights(model=model, weights=mindformers_weights.named_weights(model, source, choices.mindformers))


def _hub_table(model: ModelConfig, choices: MindFormersChoices) -> NameTable:  # noqa: ARG001  # as the other formats
    return family_of(model).names(model)


def _mindformers_names(model: ModelConfig, choices: MindFormersChoices) -> NameTable:
    layout = MindFormersLayout(is_interleaved=choices.is_interleaved, is_grouped=choices.is_grouped)
    # A second name for a tied head is read where it is there, but not written.
    table = mindformers_table(model, layout)
    return NameTable(rows=table.rows, num_hidden_layers=table.num_hidden_layers)


def _start_hub_file(file: BinaryIO, tensors: Sequence[PlannedTensor], crc: int) -> SafetensorsWriter:  # noqa: ARG001
    return SafetensorsWriter(file, tensors, {"format": "pt"})


def _start_ms_file(file: BinaryIO, tensors: Sequence[PlannedTensor], crc: int) -> SafetensorsWriter:  # noqa: ARG001
    return SafetensorsWriter(file, tensors, {"format": "ms"})


def _start_ckpt(file: BinaryIO, tensors: Sequence[PlannedTensor], crc: int) -> MindSporeCkptWriter:  # noqa: ARG001
    return MindSporeCkptWriter(file=file, crc=crc)


def _is_run(path: Path) -> bool:
    return (path / _RUN_FILES[0]).is_file() and (path / _RUN_FILES[1]).is_dir()


def _is_torch_dist(path: Path) -> bool:
    return (path / ".metadata").is_file() and any(path.glob("*.distcp"))


def _is_hub_folder(path: Path) -> bool:
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def _has_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors" or (path.is_dir() and any(path.glob("*.safetensors")))


FORMATS: Sequence[WeightFormat] = (
    WeightFormat(name="firstlight", title="a run's output folder", recognises=_is_run, open=_open_run),
    WeightFormat(
        name="huggingface",
        title="a folder with config.json and .safetensors files",
        recognises=_is_hub_folder,
        open=_open_hub,
        output=Output(
            shard_bytes=_SHARD_BYTES,
            suffix=".safetensors",
            table=_hub_table,
            start=_start_hub_file,
            finish=finish_hub_folder,
        ),
    ),
    WeightFormat(
        name="mindformers-ranks",
        title="MindFormers' folder of rank_N/...-EPOCH_STEP files",
        recognises=is_rank_folders,
        open=_open_ranks,
    ),
    WeightFormat(
        name="mindformers-blocks",
        title="MindFormers' iteration_NNNNNNNN folder",
        recognises=is_block_folder,
        open=_open_blocks,
    ),
    WeightFormat(
        name="megatron",
        title="Megatron's torch_dist folder; recognised, and refused",
        recognises=_is_torch_dist,
        open=_refuse_megatron,
    ),
    WeightFormat(
        name="mindspore-ckpt",
        title="a .ckpt file with MindFormers' names",
        recognises=lambda path: path.suffix == ".ckpt",
        open=_open_ckpt,
        output=Output(shard_bytes=None, suffix=".ckpt", table=_mindformers_names, start=_start_ckpt),
    ),
    WeightFormat(
        name="mindspore-safetensors",
        title="a .safetensors file, or a folder of some, with MindFormers' names",
        recognises=_has_safetensors,
        open=_open_safetensors,
        output=Output(shard_bytes=None, suffix=".safetensors", table=_mindformers_names, start=_start_ms_file),
    ),
)
"""In the order in which they are recognised."""


def format_named(name: str) -> WeightFormat:
    """The row of that name. Raises InputError when there is none."""
    for row in FORMATS:
        if row.name == name:
            return row
    raise InputError(f"{name} is no format of weights; known are {', '.join(row.name for row in FORMATS)}")


def format_of(path: Path) -> WeightFormat:
    """The format that the file or folder shows. Raises InputError when it shows none."""
    if not path.exists():
        raise InputError(f"{path} does not exist")
    for row in FORMATS:
        if row.recognises(path):
            return row
    shown = "\n".join(f"  {row.name}: {row.title}" for row in FORMATS)
    raise InputError(f"{path} is none of the known formats of weights; name one with --from:\n{shown}")
