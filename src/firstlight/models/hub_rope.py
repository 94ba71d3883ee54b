"""The rotary embedding in config.json: `rope_parameters` as transformers 5 writes it, or `rope_theta`, `rope_scaling`
and `partial_rotary_factor` as older files have them."""

import math
from typing import Any

from firstlight.config.model import ModelConfig
from firstlight.config.rope import HeadRope, YarnScaling
from firstlight.models.hub_config import Joint, Json, RefusedFieldError
from firstlight.models.layers import yarn_multiplier
from firstlight.ops.rotary import yarn_mscale

ROPE_FIELDS = ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor")
_SCALINGS = {
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""The kinds of scaling that the decoder has, and their fields, which have the same names on both sides."""


def rope_row(*, layout: str, theta: float = 10000.0, partial: float | None = None) -> Joint:
    """The row of a family with this layout of pairs, and with these values where the file says nothing.

    `partial` None: the family has no partial rotation.
    """

    def read(values: Json) -> dict[str, Any]:
        return {"layout": layout, **read_rope(values, theta=theta, partial=partial)}

    return Joint(fields=ROPE_FIELDS, ours="attention.rope", to_ours=read, to_theirs=write_rope)


def write_rope(model: ModelConfig) -> Json:
    """`rope_parameters` of a model."""
    rope = model.attention.rope
    out: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    if isinstance(rope, HeadRope) and rope.partial_rotary_factor != 1:
        out["partial_rotary_factor"] = rope.partial_rotary_factor
    if rope.scaling is not None:
        out |= {"rope_type": rope.scaling.kind, **rope.scaling.model_dump(exclude={"kind"})}
    if isinstance(rope.scaling, YarnScaling):
        # Said outright: where mscale_all_dim is 0, transformers derives another one from mscale than DeepSeek does.
        out["attention_factor"] = yarn_multiplier(rope.scaling)
    return {"rope_parameters": out}


def read_rope(values: Json, *, theta: float = 10000.0, partial: float | None = None) -> dict[str, Any]:
    """The section of a rotary embedding, without its layout. Raises RefusedFieldError."""
    parameters = {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    kinds = {parameters.pop(name) for name in ("type", "rope_type") if name in parameters}
    out: dict[str, Any] = {"theta": parameters.pop("rope_theta", values.get("rope_theta", theta))}
    share = parameters.pop("partial_rotary_factor", values.get("partial_rotary_factor", partial))
    if partial is not None:
        out["partial_rotary_factor"] = share
    elif share not in (None, 1):
        raise RefusedFieldError(f"partial_rotary_factor = {share} is not a part of this family")
    out["scaling"] = _scaling(kinds.pop() if kinds else "default", parameters)
    return out


def _scaling(kind: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    if kind == "default":
        if parameters:
            raise RefusedFieldError(f"rope_parameters of type default have {', '.join(parameters)}")
        return None
    if kind not in _SCALINGS:
        raise RefusedFieldError(f"rope_type = {kind!r} is not supported; default, {' and '.join(_SCALINGS)} are")
    factor = parameters.pop("attention_factor", None)
    unknown = [name for name in parameters if name not in _SCALINGS[kind]]
    if unknown:
        raise RefusedFieldError(f"rope_parameters of type {kind} have {', '.join(unknown)}, which is not known")
    scaling = {"kind": kind, **{name: value for name, value in parameters.items() if value is not None}}
    if kind == "yarn":
        _check_attention_factor(scaling, factor)
    return scaling


def _check_attention_factor(scaling: dict[str, Any], factor: float | None) -> None:
    """Refuse where transformers multiplies cosines and sines by something else than we do."""
    yarn = YarnScaling.model_validate(scaling)
    if factor is None:
        has_both = scaling.get("mscale") and scaling.get("mscale_all_dim")
        factor = yarn_multiplier(yarn) if has_both else yarn_mscale(yarn.factor, 1.0)
    if not math.isclose(factor, yarn_multiplier(yarn), rel_tol=1e-6):
        raise RefusedFieldError(
            f"rope_parameters.attention_factor = {factor} is not what mscale = {yarn.mscale} and mscale_all_dim = "
            f"{yarn.mscale_all_dim} give, {yarn_multiplier(yarn)}"
        )
