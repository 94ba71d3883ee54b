"""The optimizer section out of the facts."""

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation
from firstlight.compat.watch_section import norm_limit

_ADAMW = ("adamw", "fusedadamw", "fp32stateadamweightdecay", "fusedadamweightdecay", "adamweightdecay")
_PMA = ("pmaadamw", "fusedpmaadamw")
_WEIGHTINGS = {"ema": "ema", "sma": "mean"}
_WITHOUT_CORRECTION = ("fp32stateadamweightdecay", "fusedadamweightdecay", "adamweightdecay")
_NAMES: Mapping[str, str] = {
    "word_embeddings": "embedding.*",
    "embedding": "embedding.*",
    "output_layer": "head.*",
    "lm_head": "head.*",
    "router": "*.router.*",
}
"""What a pattern of parameters has in it there, and the pattern here; the first that fits."""

Section = dict[str, Any]


def build_optimizer(facts: Facts, learning_rate: float, *, latent: bool) -> Section:
    """The section, the learning rate with it."""
    kind = str(facts.value("optimizer", "AdamW")).lower()
    section: Section = {"type": "adamw", "learning_rate": learning_rate}
    usual = 0.01 if facts.generation is Generation.PYNATIVE else 0.0
    section["weight_decay"] = facts.number("weight_decay", usual)
    section["max_grad_norm"] = _max_norm(facts)
    if kind == "muon":
        section |= _muon(facts, latent=latent)
    elif kind in (*_ADAMW, *_PMA):
        section |= {"betas": _betas(facts), "eps": facts.number("eps", 1e-8)}
        if kind in _WITHOUT_CORRECTION:
            facts.note(
                "optimizer",
                "adamw corrects the bias of its first steps; this optimizer of MindSpore does not",
                "optimizer",
            )
    else:
        facts.refuse("optimizer", "is not there; AdamW and Muon are")
    limit = norm_limit(facts)
    if limit is not None:
        section["skip_above"] = limit
    groups = _groups(facts)
    if groups:
        section["groups"] = groups
    return section


def build_averages(facts: Facts) -> Section:
    """PmaAdamW's."""
    if str(facts.value("optimizer", "AdamW")).lower() not in _PMA:
        return {}
    weighting = _WEIGHTINGS.get(str(facts.value("pma_weighting", "ema")).lower())
    if weighting is None:
        facts.refuse("pma_weighting", "is neither ema nor sma")
    elif weighting == "ema":
        facts.note(
            "averages",
            "the first weights are taken as they are; MindFormers begins with zeros, which shrinks all",
        )
    pma = {
        "interval_steps": max(1, facts.count("pma_interval", 1000)),
        "count": max(1, facts.count("pma_count", 10)),
        "weighting": weighting,
        "alpha": facts.number("pma_alpha", 0.2),
    }
    return {"pma": pma}


def _max_norm(facts: Facts) -> float | None:
    if facts.generation is Generation.PYNATIVE:
        return facts.number("max_norm", 1.0) or None
    return facts.number("max_grad_norm", 1.0) if facts.is_on("is_clipped") else None


def _betas(facts: Facts) -> list[float]:
    usual = [0.9, 0.95] if facts.generation is Generation.PYNATIVE else [0.9, 0.999]
    betas = facts.value("betas") or [facts.number("beta1", usual[0]), facts.number("beta2", usual[1])]
    return [float(beta) for beta in betas]


def _muon(facts: Facts, *, latent: bool) -> Section:
    section: Section = {
        "type": "muon",
        "momentum": facts.number("momentum", 0.95),
        "is_nesterov": facts.is_on("is_nesterov", default=True),
        "newton_schulz_steps": facts.count("newton_schulz_steps", 5),
        "rms_scale": facts.number("rms_scale", 0.2),
        "splits_heads": latent,
        "betas": [float(beta) for beta in facts.value("adamw_betas", facts.value("betas", [0.95, 0.95]))],
        "eps": facts.number("adamw_eps", facts.number("eps", 1e-8)),
    }
    coefficients = facts.value("newton_schulz_coefficients")
    if coefficients is not None:
        if len(coefficients) == 3 and not isinstance(coefficients[0], list):
            section["newton_schulz_coefficients"] = [float(number) for number in coefficients]
        else:
            facts.refuse("newton_schulz_coefficients", "changes while it iterates; give one triple")
    names = facts.words("adamw_names") if facts.has("adamw_names") else []
    if names:
        section["adamw_for"] = sorted({*_patterns(facts, "adamw_names", names), "*.router.*"})
    # MindFormers' older generations clip whenever they use Muon.
    if facts.is_on("clips_qk", default=facts.has("qk_clip") or facts.generation is not Generation.PYNATIVE):
        if latent:
            section["qk_clip"] = {"threshold": facts.number("qk_clip", 100.0)}
        else:
            facts.note("optimizer", "queries and keys are clipped with latent attention alone", "qk_clip", "clips_qk")
    return section


def _groups(facts: Facts) -> list[Section]:
    groups = _grouped_rates(facts)
    for fact, ratio in (("undecayed_names", 0.0), ("decayed_names", 1.0)):
        if facts.value(fact):
            groups += [
                {"pattern": pattern, "weight_decay_ratio": ratio}
                for pattern in _patterns(facts, fact, facts.words(fact))
            ]
    return groups


def _grouped_rates(facts: Facts) -> list[Section]:
    """Groups that differ from the default schedule in their learning rate only."""
    groups: list[Section] = []
    peak = facts.number("learning_rate", 1.0)
    for group in facts.value("grouped_rates") or []:
        if not isinstance(group, Mapping):
            facts.refuse("grouped_rates", "is no list of groups")
            continue
        shape = {"schedule": "type", "warmup_steps": "warmup_steps", "warmup_ratio": "warmup_ratio", "lr_end": "lr_end"}
        if any(key in group and group[key] != facts.value(fact) for fact, key in shape.items()):
            facts.refuse(
                "grouped_rates", "has a group with a schedule of another shape; groups differ in their rate only"
            )
        ratio = float(group.get("learning_rate", peak)) / peak
        patterns = _patterns(facts, "grouped_rates", [str(name) for name in group.get("params", [])])
        groups += [{"pattern": pattern, "learning_rate_ratio": ratio} for pattern in patterns if ratio != 1.0]
    return groups


def _patterns(facts: Facts, fact: str, names: Sequence[str]) -> list[str]:
    patterns: dict[str, None] = {}
    for name in names:
        pattern = next((ours for theirs, ours in _NAMES.items() if theirs in name), None)
        if pattern is None:
            facts.refuse(fact, f"names parameters that are called otherwise here: {name}; see optimizer.groups")
        else:
            patterns.setdefault(pattern)
    return list(patterns)
