"""Batch arithmetic: how many sequences a step has, and how many steps a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.layout_section import Degrees
from firstlight.compat.mindrecord_paths import mindrecord_sets
from firstlight.compat.old_file import Generation

_RAMP_NUMBERS = 3

CountRows = Callable[[Path], int | None]
"""Rows of a MindRecord set; None where it is not there."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """The run in numbers."""

    micro_batch_size: int
    global_batch_size: int
    steps: int
    all_steps: int
    """Of all epochs, wherever the run ends."""
    per_epoch: int


def course_of(facts: Facts, degrees: Degrees, world_size: int | None, count_rows: CountRows) -> Course:
    """What the file makes of its batches."""
    micro = max(1, facts.count("micro_batch_size", 1))
    if facts.generation is Generation.PYNATIVE:
        steps = max(1, facts.count("steps", 1000))
        batch = _pynative_batch(facts, degrees, micro, world_size)
        return Course(micro_batch_size=micro, global_batch_size=batch, steps=steps, all_steps=steps, per_epoch=steps)
    batch = micro * degrees.data_size(world_size) * _portions(facts, degrees)
    per_epoch = _steps_of_an_epoch(facts, batch, count_rows)
    every = max(1, facts.count("epochs", 1)) * per_epoch
    if facts.count("epochs", 1) > 1 and not facts.has("mindrecord_paths"):
        facts.note(
            "training",
            f"{facts.count('epochs', 1)} epochs of {per_epoch} steps: MindFormers reads the same samples in each; "
            "here the order is Megatron's for all steps at once, which shuffles each pass over the documents anew",
            "epochs",
        )
    stop = facts.count("stop_step", 0)
    return Course(
        micro_batch_size=micro,
        global_batch_size=batch,
        steps=min(stop, every) if stop > 0 else every,
        all_steps=every,
        per_epoch=per_epoch,
    )


def with_ramp(facts: Facts, course: Course) -> int | dict[str, Any]:
    """The batch of a step, with the ramp that leads to it where there is one: start, increment, samples."""
    ramp, final = facts.value("ramp"), course.global_batch_size
    if not ramp:
        return final
    if not isinstance(ramp, list) or len(ramp) != _RAMP_NUMBERS:
        facts.refuse("ramp", "is not three numbers: where it starts, by how much it grows, over how many samples")
        return final
    start, increment, samples = (int(number) for number in ramp)
    if not 0 < start < final or increment < 1 or (final - start) % increment or samples < 1:
        facts.refuse("ramp", f"does not lead from its start to global_batch_size = {final} by its increment")
        return final
    return {"samples": final, "ramp": {"start": start, "increment": increment, "over": {"samples": samples}}}


def _portions(facts: Facts, degrees: Degrees) -> int:
    """Micro-batches of a rank in a step."""
    copies = max(1, facts.count("interleaved_copies", 1))
    batches, accumulated = max(1, facts.count("micro_batches", 1)), max(1, facts.count("accumulation", 1))
    if degrees.pipeline > 1:
        if accumulated > 1:
            facts.note("training", "gradient_accumulation_steps counts for nothing with a pipeline", "accumulation")
        return batches * copies
    if batches > 1:
        facts.note("training", "micro_batch_num counts for nothing without a pipeline", "micro_batches")
    if degrees.data is None:
        return 1
    return accumulated * copies


def _pynative_batch(facts: Facts, degrees: Degrees, micro: int, world_size: int | None) -> int:
    """As given; MindFormers leaves out what does not come out even."""
    batch = max(1, facts.count("global_batch_size", 1))
    portion = micro * degrees.data_size(world_size)
    if batch % portion == 0:
        return batch
    even = max(1, batch // portion) * portion
    facts.note(
        "training",
        f"global_batch_size = {batch} is no multiple of local_batch_size x data-parallel ranks = {portion}; "
        f"MindFormers takes {even}, and so does this",
        "global_batch_size",
    )
    return even


def _steps_of_an_epoch(facts: Facts, batch: int, count_rows: CountRows) -> int:
    samples = _samples(facts, count_rows)
    if samples is None:
        total = facts.count("total_steps", -1)
        facts.note(
            "training",
            "the set is not here, so its rows cannot be counted: set training.steps to epochs x (rows // "
            "global_batch_size)",
            "mindrecord_paths",
        )
        return total if total > 0 else 1
    samples *= max(1, facts.count("repeat", 1))
    if samples < batch:
        facts.faults.append(
            f"{samples} samples do not fill one global batch of {batch}; give more samples, or a smaller batch"
        )
        return 1
    return samples // batch


def _samples(facts: Facts, count_rows: CountRows) -> int | None:
    """Samples of an epoch: the first of `sizes`, `num_samples`, or the rows of the sets."""
    sizes = facts.value("sizes")
    if isinstance(sizes, list) and sizes:
        return int(sizes[0])
    if facts.has("num_samples"):
        return facts.count("num_samples", 1)
    counted = [count_rows(Path(path)) for path in mindrecord_sets(facts.words("mindrecord_paths"))]
    known = [count for count in counted if count is not None]
    return sum(known) if known and len(known) == len(counted) else None
