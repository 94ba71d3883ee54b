"""Recompute and offload out of the facts."""

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation
from firstlight.compat.stages import layer_numbers, offset_sizes

_PARTS = (
    ("shared_expert", "shared_expert"),
    ("expert", "experts"),
    ("attention", "attention"),
    ("mlp", "feed_forward"),
    ("feed_forward", "feed_forward"),
)
"""What a path of a module has in it, and the part here; the first that fits."""


def build_recompute(facts: Facts, stages: tuple[int, int], layers: tuple[int, int]) -> dict[str, Any]:
    """The section; `stages` are pipeline_parallel and the stages of a rank, `layers` as in the parallelism section."""
    if facts.generation is Generation.PYNATIVE:
        return _pynative(facts)
    written = facts.value("full_recompute", False)
    if isinstance(written, list):
        return _of_stages(facts, written, stages, layers)
    if written:
        return {"kind": "full", **_communication(facts)}
    if facts.has("select_operators") and facts.value("select_operators"):
        facts.note(
            "recompute", "operators are not chosen by name: all that is cheap is computed again", "select_operators"
        )
        return {"kind": "selective"}
    selected = facts.value("select_recompute", False)
    if isinstance(selected, list) and not any(_flat(selected)):
        selected = False
    if isinstance(selected, list):
        facts.note("recompute", "all layers are treated alike, not so many of each stage", "select_recompute")
    return {"kind": "selective"} if selected else {}


def build_offload(facts: Facts) -> dict[str, Any]:
    """What waits in host memory."""
    section: dict[str, Any] = {}
    if facts.is_on("swap"):
        section["activations"] = _swapped(facts)
        facts.note("offload", "whole layers wait in host memory, not operators", "swap")
    if facts.is_on("optimizer_swap") or facts.is_on("cpu_offload"):
        section["optimizer_state"] = "host"
    return section


def covering(numbers: Sequence[int]) -> dict[str, int]:
    """The smallest range that holds all of `numbers`."""
    ordered = sorted(set(numbers))
    steps = {after - before for before, after in zip(ordered, ordered[1:], strict=False)}
    layers = {"first": ordered[0], "last": ordered[-1]}
    return {**layers, "every": steps.pop()} if len(steps) == 1 and steps != {1} else layers


def _communication(facts: Facts) -> dict[str, str]:
    return {"communication": "repeated" if facts.is_on("communication_is_repeated", default=True) else "kept"}


def _of_stages(facts: Facts, written: list[Any], stages: tuple[int, int], layers: tuple[int, int]) -> dict[str, Any]:
    """The first so many layers of each stage; here one range, which holds them all."""
    counts = [int(count) for count in _flat(written)]
    if not any(counts):
        return {}
    degree, within = stages
    decoder, prediction = layers
    counted = decoder + prediction if facts.generation is Generation.LEGACY else decoder
    if len(counts) != degree * within:
        facts.refuse("full_recompute", f"is for {len(counts)} stages, and there are {degree} x {within}")
        return {}
    sizes = offset_sizes(facts, degree, within, counted)
    if not sizes:
        return {"kind": "full", **_communication(facts)}
    starts = [sum(sizes[:stage]) for stage in range(len(sizes))]
    chosen = [
        start + layer
        for start, size, count in zip(starts, sizes, counts, strict=True)
        for layer in range(min(size, count))
    ]
    layers_range = covering(chosen)
    covered = len(range(layers_range["first"], layers_range["last"] + 1, layers_range.get("every", 1)))
    if covered != len(set(chosen)):
        facts.note(
            "recompute",
            f"MindFormers recomputes {len(set(chosen))} layers, so many of each stage; here the {covered} of the "
            "smallest range that holds them. It costs time, not memory, and changes no result",
            "full_recompute",
        )
    return {"kind": "full", "layers": layers_range, **_communication(facts)}


def _flat(written: Any) -> list[Any]:
    return [item for one in written for item in _flat(one)] if isinstance(written, list) else [written]


def _pynative(facts: Facts) -> dict[str, Any]:
    mode = str(facts.value("recompute_mode", "none") or "none").lower()
    if mode == "none":
        return {}
    if mode not in ("full", "select"):
        facts.refuse("recompute_mode", "is not known; use full, select or None")
        return {}
    if mode == "select":
        return _modules(facts)
    if not facts.has("recomputed_layers"):
        return {"kind": "full"}
    numbers = _numbers(facts, "recomputed_layers", facts.value("recomputed_layers"))
    return {"kind": "full", "layers": covering(numbers)} if numbers else {}


def _numbers(facts: Facts, fact: str, written: Any) -> list[int]:
    try:
        return layer_numbers(written)
    except ValueError:
        facts.refuse(fact, "is no list of layers such as [0-3, 7]")
        return []


def _modules(facts: Facts) -> dict[str, Any]:
    selected = facts.value("recomputed_modules") or {}
    if not isinstance(selected, Mapping):
        facts.refuse("recomputed_modules", "is no mapping of paths to layers")
        return {}
    parts: dict[str, None] = {}
    numbers: list[int] = []
    for path, written in selected.items():
        part = next((part for word, part in _PARTS if word in str(path).lower()), None)
        if part is None:
            facts.note(
                "recompute", f"{path} is kept: a norm holds little more than what it reads", "recomputed_modules"
            )
            continue
        parts.setdefault(part)
        numbers += _numbers(facts, "recomputed_modules", written)
    if "feed_forward" in parts:
        parts = {part: None for part in parts if part not in ("experts", "shared_expert")}
    if not parts or not numbers:
        return {}
    if len({str(written) for written in selected.values()}) > 1:
        facts.note(
            "recompute",
            "all modules are recomputed in the same layers: the range that holds them all",
            "recomputed_modules",
        )
    return {"kind": "modules", "modules": list(parts), "layers": covering(numbers)}


def _swapped(facts: Facts) -> dict[str, int]:
    """The layers of `layer_swap`: a list of mappings with `layers`."""
    written = facts.value("swapped_layers") or []
    rows = written if isinstance(written, list) else [written]
    layers = [row.get("layers") for row in rows if isinstance(row, Mapping)]
    named = [layer for layer in layers if layer is not None and not isinstance(layer, bool)]
    numbers = _numbers(facts, "swapped_layers", named) if named else []
    return covering(numbers) if numbers else {}
