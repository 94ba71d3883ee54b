"""What is measured, shown and limited, out of the facts."""

from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation

_MEASURES = {"gradient_norms": "layers", "weight_norms": "weights", "optimizer_norms": "optimizer_state"}
_USUAL_MEASURE = "ranks"
_USUAL_LIMIT, _USUAL_COUNT = 3.0, 10
"""Of norms of gradients, and of steps in a row above it, after which MindFormers ends the run."""
_MOST_PROFILED = 100


def build_monitor(facts: Facts) -> dict[str, Any]:
    """MindFormers shows every step."""
    section: dict[str, Any] = {"log_every_steps": max(1, facts.count("log_every_steps", 1))}
    if facts.is_on("watches"):
        measures = [measure for fact, measure in _MEASURES.items() if facts.value(fact)]
        if measures:
            section["measure"] = [_USUAL_MEASURE, *measures]
    if facts.is_on("tracks_logits") or (facts.is_on("watches") and facts.value("attention_logits")):
        section["watches_attention_logits"] = True
    if facts.is_on("profiles"):
        section["profile"] = _profile(facts)
    return section


def _profile(facts: Facts) -> dict[str, Any]:
    first = max(1, facts.count("profile_first", 1))
    last = max(first, facts.count("profile_last", 10))
    ranks = facts.value("profile_ranks") or [0]
    return {
        "first_step": first,
        "num_steps": min(_MOST_PROFILED, last - first + 1),
        "ranks": [int(rank) for rank in (ranks if isinstance(ranks, list) else [ranks])],
        "memory": facts.is_on("profile_memory", default=facts.generation is not Generation.PYNATIVE),
    }


def norm_limit(facts: Facts) -> dict[str, Any] | None:
    """From which norm on a step is skipped; None where none is."""
    if not facts.is_on("skips_by_norm"):
        return None
    return {"kind": "fixed", "norm": facts.number("norm_limit", _USUAL_LIMIT)}


def build_resilience(facts: Facts) -> dict[str, Any]:
    """How many steps in a row may be skipped."""
    if not facts.is_on("skips_by_norm"):
        return {}
    return {"max_skipped_steps": max(1, facts.count("norm_limit_count", _USUAL_COUNT))}
