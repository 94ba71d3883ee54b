"""Verbs on a finished or unfinished run: evaluate, generate, export, report."""

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.base.errors import InputError
from firstlight.cli.configuration import RegisterPath

if TYPE_CHECKING:
    from firstlight.train.trained import TrainedRun

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's output folder.", show_default=False)]


class ExportDtype(StrEnum):
    """Data types of exported weights."""

    FP32 = "fp32"
    BF16 = "bf16"


class WeightsChoice(StrEnum):
    """Which weights of a checkpoint."""

    MODEL = "model"
    EMA = "ema"


Weights = Annotated[
    WeightsChoice, typer.Option("--weights", help="Those that were trained, or their moving average (averages.ema).")
]


def evaluate(
    run: Run,
    weights: Weights = WeightsChoice.MODEL,
    samples: Annotated[int | None, typer.Option(min=1, help="At most this many sequences of each set.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="A task of lm-evaluation-harness, in place of the held-out sets. Repeatable."),
    ] = None,
    tasks_folder: Annotated[Path | None, typer.Option(help="Where tasks of your own are.")] = None,
    few_shot: Annotated[int | None, typer.Option(min=0, help="Examples before each question of a task.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many questions of a task.")] = None,
    register_path: RegisterPath = None,
) -> None:
    """Print the loss of the run's newest checkpoint on its held-out sets, or its figures on tasks, and write them to
    evaluation.json or tasks.json."""
    trained = _load(run, weights, register_path)
    if task:
        _evaluate_tasks(run, trained, task, folder=tasks_folder, num_examples=few_shot, limit=limit)
    else:
        _evaluate_held_out(run, trained, samples)


def _load(run: Path, weights: WeightsChoice, register_path: Path | None) -> "TrainedRun":
    from firstlight.models.registered import register
    from firstlight.train.trained import load_trained

    return load_trained(run, weights.value, None if register_path is None else register(register_path))


def _evaluate_tasks(
    run: Path,
    trained: "TrainedRun",
    names: list[str],
    *,
    folder: Path | None,
    num_examples: int | None,
    limit: int | None,
) -> None:
    try:
        from firstlight.train.harness import Tasks, evaluate_tasks
    except ImportError:
        raise InputError(
            "tasks need the package lm_eval, which is missing: pip install 'firstlight[lm-eval]'"
        ) from None
    found = evaluate_tasks(trained, Tasks(names=names, folder=folder, num_examples=num_examples, limit=limit))
    for name, figures in found.items():
        typer.echo(f"step {trained.step}  {name}: " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    (run / "tasks.json").write_text(json.dumps({"step": trained.step, "tasks": found}, indent=1) + "\n")


def _evaluate_held_out(run: Path, trained: "TrainedRun", samples: int | None) -> None:
    from firstlight.observe.console import evaluation_lines
    from firstlight.observe.record import evaluation_figures
    from firstlight.train.trained import evaluate_trained

    if not trained.config.data.evaluate:
        raise InputError(f"{run}: data.evaluate is empty in its config.yaml; add a held-out set")
    figures: dict[str, float] = {}
    for report in evaluate_trained(trained, max_samples=samples):
        record = {"step": report.step, **evaluation_figures(report)}
        figures |= record
        for line in evaluation_lines(record):
            typer.echo(line)
    (run / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n")


def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="The text to continue; empty: the start of a document.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Stop after this many tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=1, help="Choose among this many likeliest tokens.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    weights: Weights = WeightsChoice.MODEL,
    register_path: RegisterPath = None,
) -> None:
    """Print a continuation of the prompt, written by the run's newest checkpoint; also kept as sample.txt."""
    from firstlight.train.generate import generate as generate_text
    from firstlight.train.sampling import Sampling

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, seed=seed)
    text = generate_text(_load(run, weights, register_path), prompt, sampling)
    typer.echo(text)
    (run / "sample.txt").write_text(text, encoding="utf-8")


def export(
    run: Run,
    output: Annotated[Path, typer.Option(help="A new folder for config.json, weights and tokenizer.")],
    dtype: Annotated[ExportDtype, typer.Option(help="Data type of the weights.")] = ExportDtype.FP32,
    weights: Weights = WeightsChoice.MODEL,
) -> None:
    """Write the run's newest checkpoint as a Hugging Face folder."""
    from firstlight.checkpoint.key import read_key
    from firstlight.config.timeline import model_after
    from firstlight.convert.huggingface import export as export_weights
    from firstlight.train.exports import exported_tokenizer
    from firstlight.train.run_folder import open_run
    from firstlight.train.trained import require_code, require_weights

    folder, config = open_run(run)
    require_code(folder, None)  # weights of other classes have no names there
    require_weights(run, config, weights.value)
    step = export_weights(
        config.model,
        folder.checkpoints,
        output,
        exported_tokenizer(folder.tokenizer),
        dtype=dtype.value,
        key=read_key(config.checkpoint.key_file),
        kind=weights.value,
        model_after=partial(model_after, config),
    )
    typer.echo(f"{output}: {config.model.family} after step {step}, {dtype.value}")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Output folders of runs.", show_default=False)],
    output: Annotated[Path | None, typer.Option(help="The page; default: report.html in the first run.")] = None,
) -> None:
    """Write one HTML page with the curves and figures of one or more runs."""
    from firstlight.observe.report import write_report

    typer.echo(write_report(runs, output or runs[0] / "report.html"))
