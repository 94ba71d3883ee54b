"""The registry of model families: which choices of the schema each one is made of. No torch, so that it can be checked
before anything is built; what a family's tensors are called is in its folder under `models/`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

FamilyName = Literal[
    "deepseek_v2",
    "deepseek_v3",
    "glm4",
    "glm4_moe",
    "gpt_oss",
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
]

MTP = "multi_token_prediction"
GIVEN = "given"
"""Stands for any section that has no kinds."""

Choices = Mapping[str, tuple[Any, ...]]
"""Path of a choice below `model`, and the values that a family takes, the usual one first."""

_PLAIN: Choices = {
    "norms": ("pre",),
    "attention.kind": ("gqa",),
    "attention.bias": ("none",),
    "attention.qk_norm": ("none",),
    "attention.has_sinks": (False,),
    "attention.window": (None,),
    "attention.rope.layout": ("half_split",),
    "attention.rope.scaling": (None, "llama3", "yarn"),
    "attention.rope.scaling.truncate": (True,),
    "feed_forward.kind": ("dense",),
    "feed_forward.has_expert_bias": (False,),
    "feed_forward.activation": ("swiglu",),
    MTP: (None,),
}
"""A choice that a family does not list is made as in plain Llama."""

_LATENT: Choices = {
    **_PLAIN,
    "attention.kind": ("mla",),
    "attention.rope.layout": ("interleaved",),
    "attention.rope.scaling": (None, "yarn"),
    "feed_forward.kind": ("moe", "dense"),
}
_WHOLE_HEADS: Choices = {"attention.rope.partial_rotary_factor": (1.0,)}
_SOFTMAX_EXPERTS: Choices = {
    "feed_forward.kind": ("moe",),
    "feed_forward.n_shared_experts": (0,),
    "feed_forward.router": ("softmax",),
    "feed_forward.router.n_group": (1,),
    "feed_forward.router.routed_scaling_factor": (1.0,),
}

FAMILY_CHOICES: Mapping[str, Choices] = {
    "deepseek_v2": {
        **_LATENT,
        "feed_forward.router": ("softmax",),
        "feed_forward.router.norm_topk_prob": (False,),
    },
    "deepseek_v3": {
        **_LATENT,
        "attention.rope.layout": ("interleaved", "half_split"),
        "feed_forward.router": ("sigmoid",),
        MTP: (None, GIVEN),
    },
    "glm4": {
        **_PLAIN,
        "norms": ("sandwich",),
        "attention.bias": ("qkv", "none"),
        "attention.rope.layout": ("interleaved",),
    },
    "glm4_moe": {
        **_PLAIN,
        "attention.bias": ("none", "qkv"),
        "attention.qk_norm": ("none", "per_head"),
        "feed_forward.kind": ("moe",),
        "feed_forward.router": ("sigmoid",),
        MTP: (None, GIVEN),
    },
    "gpt_oss": {
        **_PLAIN,
        **_WHOLE_HEADS,
        **_SOFTMAX_EXPERTS,
        "attention.bias": ("all", "none"),
        "attention.has_sinks": (True,),
        "attention.window": (None, "sliding"),
        "attention.rope.scaling.truncate": (True, False),
        "feed_forward.first_k_dense_replace": (0,),
        "feed_forward.has_expert_bias": (True,),
        "feed_forward.activation": ("clamped_swiglu",),
        "feed_forward.router": ("topk_softmax",),
        "feed_forward.router.has_logit_bias": (True,),
    },
    "llama": {**_PLAIN, **_WHOLE_HEADS, "attention.bias": ("none", "all")},
    "mistral": {**_PLAIN, **_WHOLE_HEADS, "attention.window": (None, "sliding")},
    "mixtral": {
        **_PLAIN,
        **_WHOLE_HEADS,
        **_SOFTMAX_EXPERTS,
        "attention.window": (None, "sliding"),
        "feed_forward.first_k_dense_replace": (0,),
        "feed_forward.router.norm_topk_prob": (True,),
    },
    "qwen2": {**_PLAIN, **_WHOLE_HEADS, "attention.bias": ("qkv",), "attention.window": (None, "sliding")},
    "qwen3": {
        **_PLAIN,
        **_WHOLE_HEADS,
        "attention.bias": ("none", "all"),
        "attention.qk_norm": ("per_head",),
        "attention.window": (None, "sliding"),
    },
    "qwen3_moe": {
        **_PLAIN,
        **_WHOLE_HEADS,
        **_SOFTMAX_EXPERTS,
        "attention.bias": ("none", "all"),
        "attention.qk_norm": ("per_head",),
        "attention.window": (None, "sliding"),
    },
}


@dataclass(frozen=True, kw_only=True)
class RefusedChoice:
    """A choice that a family is not made of: where, what, and what would do."""

    path: str
    value: Any
    allowed: tuple[Any, ...]


def refused_choices(model: BaseModel) -> Iterator[RefusedChoice]:
    """The choices of the model section that its family does not take, in the order of the table."""
    for path, allowed in FAMILY_CHOICES[getattr(model, "family")].items():  # noqa: B009  # ModelConfig imports this file
        value = _choice_at(model, path)
        if value is not _ABSENT and value not in allowed:
            yield RefusedChoice(path=path, value=value, allowed=allowed)


def shown(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


_ABSENT = object()


def _choice_at(section: Any, path: str) -> Any:
    """The value at `path`, of a section its tag; _ABSENT where a section before it has no such key."""
    for key in path.split("."):
        if key not in getattr(type(section), "model_fields", {}):
            return _ABSENT
        section = getattr(section, key)
    if not isinstance(section, BaseModel):
        return section
    return getattr(section, "kind", None) or getattr(section, "scoring", None) or GIVEN
