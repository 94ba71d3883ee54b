"""Rotary embedding out of the facts, and what MindFormers makes of the softmax scale."""

import math
from collections.abc import Mapping
from typing import Any

from firstlight.compat.defaults import Defaults
from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation

_PLAIN = ("", "none", "rope", "partial_rope", "default")
_YARN_KEYS = ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "original_max_position_embeddings")
_LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def build_rope(facts: Facts, defaults: Defaults, *, latent: bool) -> dict[str, Any]:
    """Base, share of channels, scaling."""
    rope: dict[str, Any] = {"theta": facts.number("rope_theta", defaults["rope_theta"])}
    share = facts.number("partial_rotary_factor", 1.0)
    if not latent and share != 1.0:
        rope["partial_rotary_factor"] = share
    scaling = _scaling(facts, defaults, latent=latent)
    if scaling is not None:
        rope["scaling"] = scaling
    elif latent and facts.generation is Generation.CORE:
        _say_how_scores_are_scaled(facts)
    return rope


def _scaling(facts: Facts, defaults: Defaults, *, latent: bool) -> dict[str, Any] | None:
    written = facts.value("rope_scaling")
    if isinstance(written, Mapping):
        return _of_mapping(facts, "rope_scaling", str(written.get("rope_type", written.get("type", "yarn"))), written)
    kind = str(facts.value("position_type", "") or "").lower()
    is_nothing = kind == "none" and not facts.found["position_type"].key.endswith("extend_method")
    if kind in _PLAIN and not is_nothing:
        return None
    factors = facts.value("rope_factor")
    if isinstance(factors, Mapping):
        return _of_mapping(facts, "rope_factor", kind, factors)
    if kind == "yarn" and latent:
        return _yarn_of_latent_attention(facts, defaults)
    facts.refuse("position_type", "is not there; rope, yarn and llama3 are")
    return None


def _of_mapping(facts: Facts, fact: str, kind: str, written: Mapping[str, Any]) -> dict[str, Any] | None:
    """As Hugging Face writes it, or a legacy model."""
    keys = {"yarn": _YARN_KEYS, "llama3": _LLAMA3_KEYS}.get(kind.lower())
    if kind.lower() in _PLAIN:
        return None
    if keys is None:
        facts.refuse(fact, f"asks for {kind}, which is not there; yarn and llama3 are")
        return None
    unknown = sorted(set(written) - set(keys) - {"type", "rope_type", "rope_theta"})
    if unknown:
        facts.refuse(fact, f"has keys that are not known: {', '.join(unknown)}; those of {kind} are {', '.join(keys)}")
    scaling = {"kind": kind.lower(), **{key: written[key] for key in keys if written.get(key) is not None}}
    scaling.setdefault("original_max_position_embeddings", facts.count("max_position_embeddings", 4096))
    return scaling


def _yarn_of_latent_attention(facts: Facts, defaults: Defaults) -> dict[str, Any]:
    """MindFormers stretches `max_position_embeddings`, which it calls the original length."""
    scaling = {
        "kind": "yarn",
        "factor": facts.number("rope_factor", 40.0),
        "original_max_position_embeddings": facts.count(
            "original_positions",
            facts.count("max_position_embeddings", defaults.get("max_position_embeddings") or 4096),
        ),
        "beta_fast": facts.number("beta_fast", 32.0),
        "beta_slow": facts.number("beta_slow", 1.0),
        "mscale": facts.number("mscale", 0.707),
        "mscale_all_dim": facts.number("mscale_all_dim", 0.707),
    }
    if not facts.has("original_positions"):
        facts.note(
            "model",
            "MindFormers takes max_position_embeddings for the length before it is stretched; so it is here",
            "max_position_embeddings",
        )
    return scaling


def _say_how_scores_are_scaled(facts: Facts) -> None:
    """The graph code of r1.6 to r1.9 has YaRN's factor in the softmax scale even where the rotation is plain."""
    factor = facts.value("rope_factor", 40.0)
    factor = facts.number("rope_factor", 40.0) if not isinstance(factor, Mapping) else 40.0
    weight = facts.number("mscale", 0.707)
    mscale = 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1
    if mscale != 1.0:
        facts.note(
            "model",
            f"MindFormers' graph code multiplies the softmax scale by {mscale**2:.4f} (YaRN's factor for "
            f"rotary_scaling_factor {factor:g}) although the rotation is plain; here it is 1 / sqrt(width of a head). "
            f"To have it, write rope.scaling: {{kind: yarn, factor: {factor:g}, mscale: {weight:g}, mscale_all_dim: "
            f"{weight:g}, original_max_position_embeddings: {_too_long_to_stretch(facts)}}}, a length so great that no "
            "pair is stretched",
        )


def _too_long_to_stretch(facts: Facts) -> int:
    """A length over which the slowest pair turns more often than `beta_fast`, which YaRN therefore leaves alone."""
    return math.ceil(1.1 * 32 * 2 * math.pi * facts.number("rope_theta", 10000.0))
