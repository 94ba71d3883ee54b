"""Which layers a stage of the pipeline has, in MindFormers' ways of saying it."""

from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation


def stage_split(facts: Facts, degree: int, stages: int, layers: tuple[int, int]) -> dict[str, Any] | None:
    """Decoder layers of each stage, in the model's order; None leaves it to the balance of costs."""
    decoder, prediction = layers
    if not decoder:
        return None
    if facts.generation is Generation.PYNATIVE:
        return _listed(facts, decoder, degree * stages)
    counted = decoder + prediction if facts.generation is Generation.LEGACY else decoder
    sizes = offset_sizes(facts, degree, stages, counted)
    if facts.generation is Generation.LEGACY and sizes:
        # Multi-token prediction is a part of the last stage, and is no decoder layer here.
        sizes[-1] -= prediction
    if sizes and (sizes[-1] < 0 or min(sizes[:-1], default=1) < 1):
        facts.refuse("offset", f"leaves stages with {sizes} layers")
    return {"kind": "layers", "layers": sizes} if sizes else None


def offset_sizes(facts: Facts, degree: int, stages: int, counted: int) -> list[int]:
    """`counted` layers over all stages: the mean, rounded down, and each stage's offset."""
    count = degree * stages
    offsets = _offsets(facts, degree, stages)
    if offsets is None:
        return []
    sizes = [counted // count + offset for offset in offsets]
    if sum(sizes) == counted:
        return sizes
    if any(offsets):
        facts.refuse(
            "offset",
            f"gives {sum(sizes)} layers to {count} stages, and there are {counted}; make {counted - sum(sizes):+d}",
        )
    else:
        facts.note(
            "parallelism",
            f"{counted} layers do not come out even over {count} stages, and offset says nothing: stages are made as "
            "alike in cost as can be",
            "offset",
        )
    return []


def _offsets(facts: Facts, degree: int, stages: int) -> list[int] | None:
    written = facts.value("offset", 0)
    count = degree * stages
    if not isinstance(written, list):
        if written:
            facts.refuse("offset", "is one number; write 0, or a list with one for each stage")
            return None
        return [0] * count
    rows = [row if isinstance(row, list) else [row] for row in written]
    if all(isinstance(row, list) for row in written):
        is_v = str(facts.value("pipeline_schedule", "")).lower() == "zero_bubble_v"
        rows = [row[::-1] if is_v and number % 2 else row for number, row in enumerate(rows)]
    flat = [int(offset) for row in rows for offset in row]
    if len(flat) != count:
        facts.refuse("offset", f"is for {len(flat)} stages, and there are {degree} x {stages}")
        return None
    return flat


def _listed(facts: Facts, decoder: int, count: int) -> dict[str, Any] | None:
    """PyNative's lists of the numbers of layers; those of multi-token prediction are not counted."""
    written = facts.value("stage_layers", "auto")
    if written == "auto" or not isinstance(written, list):
        return None
    sizes = [sum(number < decoder for number in layer_numbers(stage)) for stage in written]
    if len(sizes) != count or sum(sizes) != decoder:
        facts.refuse("stage_layers", f"gives {sum(sizes)} of {decoder} layers to {len(sizes)} of {count} stages")
        return None
    return {"kind": "layers", "layers": sizes}


def layer_numbers(written: Any) -> list[int]:
    """Layer numbers in MindFormers' spellings: 3, "0-3", "0,1,2", lists of these. Raises ValueError."""
    if isinstance(written, list | tuple):
        return [number for item in written for number in layer_numbers(item)]
    numbers: list[int] = []
    for part in str(written).split(","):
        first, dash, last = part.strip().partition("-")
        numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    return numbers
