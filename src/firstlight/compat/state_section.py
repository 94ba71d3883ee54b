"""Checkpoints and what is shown, out of the facts."""

from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation


def build_checkpoint(facts: Facts) -> dict[str, Any]:
    """How often, and how many are kept."""
    is_pynative = facts.generation is Generation.PYNATIVE
    saves = facts.is_on("saves", default=True) if is_pynative else facts.has("saves")
    if not saves:
        facts.note("checkpoint", "MindFormers would save nothing; the last step is always saved here", "saves")
        return {"save_every_steps": 0}
    section: dict[str, Any] = {}
    seconds = facts.number("save_every_seconds", 0)
    if seconds:
        section |= {"save_every_steps": facts.count("save_every_steps", 0), "save_every_minutes": seconds / 60}
    else:
        section["save_every_steps"] = max(0, facts.count("save_every_steps", 1000 if is_pynative else 1))
    section["keep_last"] = max(1, facts.count("keep_last", 5))
    section["asynchronous"] = facts.is_on("asynchronous")
    return section


def build_monitor(facts: Facts) -> dict[str, Any]:
    """MindFormers shows every step."""
    return {"log_every_steps": max(1, facts.count("log_every_steps", 1))}
