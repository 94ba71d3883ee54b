"""From a MindFormers file to a configuration of ours: its values, and its text with what is to be known about them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.compat.batch import CountRows, Course, course_of, with_ramp
from firstlight.compat.change import Change
from firstlight.compat.data_section import build_data, seed_of, sequence_length_of
from firstlight.compat.defaults import defaults_of
from firstlight.compat.facts import Facts
from firstlight.compat.layout_section import Degrees, build_parallelism, degrees_of
from firstlight.compat.match import Matcher, Written
from firstlight.compat.memory_section import build_offload, build_recompute
from firstlight.compat.model_section import build_model, family_of, num_layers
from firstlight.compat.old_file import OldFile, read_old_file
from firstlight.compat.optimizer_section import build_averages, build_optimizer
from firstlight.compat.precision_section import build_precision
from firstlight.compat.schedule_section import build_schedule
from firstlight.compat.state_section import build_checkpoint, layouts_of
from firstlight.compat.table import INFERENCE_MODES, TABLE
from firstlight.compat.translated_text import write_text
from firstlight.compat.watch_section import build_monitor, build_resilience
from firstlight.config.source import KeyPath


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What a MindFormers file means here."""

    values: dict[str, Any]
    origins: dict[KeyPath, str]
    """Of the keys that come from one key there."""
    text: str
    """YAML with comments."""
    world_size: int | None
    """The processes that the file is written for; None where it takes any number."""
    old_texts: Mapping[str, str]
    """The files that it was read from, by name."""
    notes: tuple[str, ...]
    """What is done otherwise than it is written there."""
    layouts: Mapping[str, str] = field(default_factory=dict)
    """Of MindFormers' tensors: gate_up and qkv, where they are not as usual there."""


def not_counted(_path: Path) -> int | None:
    """For callers that cannot open MindRecord sets."""
    return None


def translate(
    path: Path,
    *,
    world_size: int | None = None,
    count_rows: CountRows = not_counted,
    changes: Sequence[Change] = (),
    registered: Mapping[str, str] | None = None,
) -> Translation:
    """Translate the file at `path`, with `changes` laid over it, as it runs on `world_size` processes (None: as many
    as it is written for). `registered` are families by the names of model classes of the user's own.

    Raises InputError with every fault: unknown keys, contradictions, and what there is not.
    """
    old = read_old_file(path, changes)
    facts = _facts_of(old, path, registered or {})
    values: dict[str, Any] = {}
    needed = None
    try:
        values, needed = _sections(facts, world_size, count_rows)
    except (TypeError, ValueError) as error:
        # Of a value inside of a list or mapping; those that stand alone are asked for by kind.
        facts.faults.append(f"a value is not of the kind that its key takes: {error}")
    if facts.faults:
        lines = "\n".join(f"  {fault}" for fault in dict.fromkeys(facts.faults))
        count = len(set(facts.faults))
        raise InputError(f"{path} cannot be translated, for {count} reason{'s' if count > 1 else ''}:\n{lines}")
    return Translation(
        values=values,
        origins=_origins(facts, values),
        text=write_text(old, facts, values, needed),
        world_size=needed,
        old_texts=old.texts,
        notes=tuple(note.text for note in facts.notes),
        layouts=layouts_of(facts),
    )


def _facts_of(old: OldFile, path: Path, registered: Mapping[str, str]) -> Facts:
    _require_training(old, path)
    facts = Facts(generation=old.generation, registered={name.lower(): family for name, family in registered.items()})
    matcher = Matcher(TABLE[old.generation])
    for written in matcher.match(old.source):
        facts.take(written)
    _add_hub_config(facts, matcher)
    _check_copy(facts, old)
    return facts


def _require_training(old: OldFile, path: Path) -> None:
    """What only infers has keys of its own, about which there is nothing to say."""
    mode = old.source.values.get("run_mode")
    if mode in INFERENCE_MODES:
        place = old.source.origin_of(("run_mode",))
        raise InputError(f"{path}: run_mode = {mode} does not train; only train and finetune are translated ({place})")


def _check_copy(facts: Facts, old: OldFile) -> None:
    """MindFormers puts train_dataset into the place of the task's copy."""
    copy = facts.value("train_dataset_copy")
    if not isinstance(copy, Mapping):
        return
    data = old.source.values.get("train_dataset")
    if copy.get("dataset_config", data) != data and len(old.texts) == 1:
        facts.note("data", "train_dataset goes before the copy of it in train_dataset_task", "train_dataset_copy")
    if copy.get("type", "CausalLanguageModelDataset") != "CausalLanguageModelDataset":
        facts.refuse("train_dataset_copy", "is no CausalLanguageModelDataset")


def _add_hub_config(facts: Facts, matcher: Matcher) -> None:
    """The config.json of `pretrained_model_dir` stands behind the model section."""
    folder = facts.value("config_folder")
    path = Path(str(folder)) / "config.json" if folder else None
    if path is None or not path.is_file():
        return
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    for key, value in values.items():
        row = matcher.row(f"model.model_config.{key}")
        if row is not None and row.fact and row.fact not in facts.found:
            facts.take(Written(key=key, value=value, origin=str(path), row=row))


def _sections(facts: Facts, world_size: int | None, count_rows: CountRows) -> tuple[dict[str, Any], int | None]:
    """All sections, and the processes that they are for."""
    degrees = degrees_of(facts)
    family = family_of(facts) or ""
    length = sequence_length_of(facts, defaults_of(facts.generation, family)["sequence_length"])
    model = build_model(facts, length)
    layers = num_layers(facts, model)
    course = course_of(facts, degrees, world_size, count_rows)
    rate = build_schedule(facts, course.steps, course.all_steps, course.per_epoch)
    latent = (model.get("attention") or {}).get("kind") == "mla"
    parallelism = build_parallelism(facts, degrees, layers, world_size)
    stages = (degrees.pipeline, max(1, facts.count("stages_per_rank", 1)))
    sections: dict[str, Any] = {
        "model": model,
        "data": build_data(facts, length),
        "parallelism": parallelism,
        "optimizer": build_optimizer(facts, rate.learning_rate, latent=latent),
        "lr_scheduler": rate.schedule,
        "averages": build_averages(facts),
        "training": _training(facts, course),
        "recompute": build_recompute(facts, stages, layers),
        "offload": build_offload(facts),
        "checkpoint": build_checkpoint(facts, family, course.per_epoch),
        "resilience": build_resilience(facts),
        "monitor": build_monitor(facts),
    }
    return {name: section for name, section in sections.items() if section}, _needed(facts, degrees, world_size)


def _needed(facts: Facts, degrees: Degrees, world_size: int | None) -> int | None:
    if degrees.data is not None:
        return degrees.data * degrees.fixed
    shard = facts.count("data_parallel_shard", -1)
    return world_size or (shard * degrees.fixed if shard > 0 else None)


def _training(facts: Facts, course: Course) -> dict[str, Any]:
    folder = str(facts.value("output_folder", facts.value("save_path") or "./output"))
    section: dict[str, Any] = {
        "steps": course.steps,
        "global_batch_size": with_ramp(facts, course),
        "micro_batch_size": course.micro_batch_size,
        "precision": build_precision(facts),
        "seed": seed_of(facts),
        "output_folder": folder,
    }
    if facts.is_on("deterministic"):
        section["deterministic"] = True
    if str(facts.value("run_mode", "train")) == "finetune":
        facts.note("training", "finetune is training that begins with other weights", "run_mode")
    if facts.is_on("evaluates"):
        facts.refuse("evaluates", "needs a set that was held out; name it with data.evaluate in the translated file")
    return section


def _origins(facts: Facts, values: Mapping[str, Any]) -> dict[KeyPath, str]:
    """Where the value of a key here was written there."""
    origins: dict[KeyPath, str] = {}
    for written in facts.found.values():
        path: KeyPath = tuple(written.row.to.split("."))
        if written.origin and _is_in(values, path):
            origins.setdefault(path, written.origin)
    return origins


def _is_in(values: Any, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[str(key)]
    return True
