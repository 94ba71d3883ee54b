"""`firstlight convert`: weights from one format into another."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.model import read_model
from firstlight.config.load import load

if TYPE_CHECKING:
    from firstlight.config.model import ModelConfig


class WeightDtype(StrEnum):
    """Data types of converted weights."""

    KEEP = "keep"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class GateUp(StrEnum):
    """How MindFormers lays out gate and up projections in one tensor."""

    INTERLEAVED = "interleaved"
    JOINED = "joined"


class Qkv(StrEnum):
    """How MindFormers lays out queries, keys and values in one tensor."""

    GROUPED = "grouped"
    JOINED = "joined"


def convert(  # noqa: PLR0913  (one argument for each flag of the verb)
    origin: Annotated[Path, typer.Argument(metavar="INPUT", help="A file or folder of weights.", show_default=False)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="What is written; a new name.", show_default=False)],
    target: Annotated[
        str, typer.Option("--to", help="huggingface, mindspore-ckpt or mindspore-safetensors.")
    ] = "huggingface",
    source: Annotated[
        str | None, typer.Option("--from", help="The input's format; default: what it looks like.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A run's YAML, or a Hugging Face config.json, of the model.", show_default=False),
    ] = None,
    dtype: Annotated[WeightDtype, typer.Option(help="Data type of the weights.")] = WeightDtype.KEEP,
    at: Annotated[
        str | None,
        typer.Option(help="Of several checkpoints this one: a step, or EPOCH_STEP.", show_default=False),
    ] = None,
    strategy: Annotated[
        Path | None, typer.Option(help="MindSpore's folder of strategy files.", show_default=False)
    ] = None,
    gate_up: Annotated[
        GateUp, typer.Option(help="MindFormers' linear_fc1: use_interleaved_weight_layout_mlp, or not.")
    ] = GateUp.INTERLEAVED,
    qkv: Annotated[
        Qkv, typer.Option(help="MindFormers' linear_qkv: not use_contiguous_weight_layout_attention, or that.")
    ] = Qkv.GROUPED,
) -> None:
    """Write weights in another format. Started again after a kill, it goes on."""
    from firstlight.convert.conversion import Conversion, ConversionPlan
    from firstlight.convert.formats import format_named, format_of
    from firstlight.convert.mindformers_weights import MindFormersChoices
    from firstlight.convert.progress import shown_progress
    from firstlight.convert.translation import DTYPES
    from firstlight.convert.weight_format import ReadChoices
    from firstlight.train.run_folder import RunFolder
    from firstlight.train.trained import require_code

    require_code(RunFolder(path=origin), None)  # the names of weights are those of families
    row = format_of(origin) if source is None else format_named(source)
    choices = ReadChoices(
        model=_model(config),
        at=at,
        strategy=strategy,
        mindformers=MindFormersChoices(is_interleaved=gate_up is GateUp.INTERLEAVED, is_grouped=qkv is Qkv.GROUPED),
    )
    plan = ConversionPlan(
        Conversion(
            origin=origin,
            opened=row.open(origin, choices),
            choices=choices,
            target=format_named(target),
            output=output,
            dtype=DTYPES[dtype.value],
        )
    )
    with shown_progress(f"{row.name} to {target}", plan.num_bytes) as advance:
        plan.run(advance)
    typer.echo(f"{output}: {plan.num_tensors} tensors, {plan.num_bytes / 1e6:,.1f} MB, {row.name} to {target}")


def _model(config: Path | None) -> "ModelConfig | None":
    if config is None:
        return None
    if config.suffix == ".json":
        from firstlight.config.model import ModelConfig
        from firstlight.convert.hub_section import read_section

        return ModelConfig.model_validate(read_section(config.parent))
    return load(config, (), read_model).config.model
