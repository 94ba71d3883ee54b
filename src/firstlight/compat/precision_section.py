"""The precision out of the facts: types of products and parameters, and the loss scale of float16."""

from collections.abc import Mapping
from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation

_KINDS = {
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float32": "fp32",
    "fp32": "fp32",
    "float16": "fp16",
    "fp16": "fp16",
}
_NEVER = 2**31 - 1
"""Steps after which a scale that is fixed there would grow."""


def build_precision(facts: Facts) -> str | dict[str, Any]:
    """A kind, with what differs from its defaults."""
    usual = "float16" if facts.generation is Generation.LEGACY else "bfloat16"
    kind = _KINDS.get(str(facts.value("compute_dtype", usual)).lower())
    if kind is None:
        facts.refuse("compute_dtype", f"is not known; use {', '.join(_KINDS)}")
        return "bf16"
    parameters = _KINDS.get(str(facts.value("params_dtype", "float32")).lower(), "fp32")
    if kind == "fp16":
        if parameters != "fp32":
            facts.note("training", "parameters are kept in fp32, and matrix products run in fp16", "params_dtype")
        return {"kind": kind, **_loss_scale(facts)}
    if kind == "bf16" and parameters == "bf16":
        return {"kind": kind, "parameters": parameters}
    if parameters != "fp32":
        facts.note("training", f"parameters are kept in fp32, and matrix products run in {kind}", "params_dtype")
    return kind


def _loss_scale(facts: Facts) -> dict[str, Any]:
    """A number, or MindSpore's DynamicLossScaleUpdateCell with its defaults. Without one it is 1 there."""
    scale = facts.value("loss_scale", 1.0)
    if isinstance(scale, Mapping):
        factor = float(scale.get("scale_factor", 2))
        return {
            "initial_scale": float(scale.get("loss_scale_value", 65536)),
            "growth_factor": factor,
            "growth_steps": int(scale.get("scale_window", 1000)),
            "backoff_factor": 1 / factor,
        }
    facts.note("training", "the loss scale does not grow; a step that is not finite lowers it", "loss_scale")
    return {"initial_scale": float(scale), "growth_steps": _NEVER}
