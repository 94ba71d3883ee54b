"""Checkpoints, out of the facts."""

from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation

_NAMELESS = ("", "glm4", "gpt_oss")


def layouts_of(facts: Facts) -> dict[str, str]:
    """How MindFormers' tensors are laid out, where it is not as usual there."""
    layouts = {} if facts.is_on("interleaves_gate_up", default=True) else {"gate_up": "joined"}
    return {**layouts, "qkv": "joined"} if facts.is_on("joins_qkv") else layouts


def build_checkpoint(facts: Facts, family: str, steps_per_epoch: int) -> dict[str, Any]:
    """How often, how many are kept, and what MindFormers' files of weights are called."""
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
    # What MindFormers has no names for, and its newer layout of checkpoints, are not written.
    if not is_pynative and family not in _NAMELESS:
        size = facts.count("sink_size", 1) if facts.is_on("sinks", default=True) else -1
        section["mindformers_files"] = {
            "prefix": str(facts.value("file_prefix", "CKP")),
            "steps_per_epoch": size if size > 0 else max(1, steps_per_epoch),
            **layouts_of(facts),
        }
    return section
