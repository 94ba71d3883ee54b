"""Feed-forward layers, experts and their router out of the facts."""

from typing import Any

from firstlight.compat.defaults import WITH_EXPERTS, Defaults
from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation

_SEQUENCE = ("seq_aux_loss", "sub_seq_aux_loss")
_WIDER = ("aux_loss", "gbs_aux_loss", "global_aux_loss")
_SCORINGS = {True: "sigmoid", False: "softmax"}


def build_feed_forward(facts: Facts, defaults: Defaults, family: str) -> dict[str, Any]:
    """Dense, or a mixture where the family has one."""
    width = _width(facts, defaults)
    if family not in WITH_EXPERTS or facts.count("n_routed_experts", defaults.get("n_routed_experts") or 1) <= 1:
        return {"kind": "dense", "intermediate_size": width}
    first = _dense_layers(facts, defaults)
    expert = width if family == "mixtral" else _count(facts, defaults, "moe_intermediate_size")
    shared = facts.count("n_shared_experts", defaults["n_shared_experts"]) if family != "mixtral" else 0
    _require_shared_width(facts, shared * expert)
    section: dict[str, Any] = {"kind": "moe", "first_k_dense_replace": first}
    if first:
        section["intermediate_size"] = width
    section["moe_intermediate_size"] = expert
    section["n_routed_experts"] = _count(facts, defaults, "n_routed_experts")
    section["n_shared_experts"] = shared
    section["router"] = _router(facts, defaults, family)
    return section


def _count(facts: Facts, defaults: Defaults, fact: str) -> int:
    if not facts.has(fact) and defaults.get(fact) is None:
        facts.faults.append(f"the model has no {fact}; write it into the model section")
    return facts.count(fact, defaults.get(fact) or 1)


def _width(facts: Facts, defaults: Defaults) -> int:
    """As written, or by the rule of a legacy Llama: two thirds of four times the width, rounded up."""
    if facts.has("intermediate_size") or defaults.get("multiple_of") is None:
        return _count(facts, defaults, "intermediate_size")
    step = facts.count("multiple_of", defaults["multiple_of"])
    hidden = facts.count("hidden_size", defaults["hidden_size"])
    width = int(2 * 4 * hidden / 3)
    if facts.has("ffn_dim_multiplier"):
        width = int((facts.number("ffn_dim_multiplier", 1.0) + 0.01) * width)
    width = step * -(-width // step)
    facts.note("model", f"intermediate_size = {width} follows from hidden_size, multiple_of and ffn_dim_multiplier")
    return width


def _dense_layers(facts: Facts, defaults: Defaults) -> int:
    frequency = facts.value("moe_layer_freq", 1)
    first = facts.count("first_k_dense_replace", defaults["first_k_dense_replace"])
    if isinstance(frequency, list):
        zeros = frequency.index(1) if 1 in frequency else len(frequency)
        if frequency != [0] * zeros + [1] * (len(frequency) - zeros):
            facts.refuse("moe_layer_freq", "mixes dense layers and experts; only the first layers can be dense")
        if facts.has("first_k_dense_replace") and first != zeros:
            facts.refuse("moe_layer_freq", f"contradicts first_k_dense_replace = {first}")
        return zeros
    if frequency not in (None, 1):
        facts.refuse("moe_layer_freq", "mixes dense layers and experts; only the first layers can be dense")
    return first


def _require_shared_width(facts: Facts, width: int) -> None:
    if facts.has("shared_width") and facts.count("shared_width", 0) != width:
        facts.refuse("shared_width", f"is not n_shared_experts x moe_intermediate_size = {width}")


def _router(facts: Facts, defaults: Defaults, family: str) -> dict[str, Any]:
    scoring = _scoring(facts, family)
    router: dict[str, Any] = {
        "scoring": scoring,
        "num_experts_per_tok": _count(facts, defaults, "num_experts_per_tok"),
        "norm_topk_prob": _is_normalised(facts, defaults, scoring, family),
    }
    router |= _groups(facts, defaults)
    weight = facts.number("router_z_loss", 0.0)
    if weight:
        router["z_loss"] = weight
    factor = facts.number("routed_scaling_factor", defaults["routed_scaling_factor"])
    if factor != 1.0 and scoring == "softmax" and family != "deepseek_v2":
        facts.note(
            "model",
            f"routed_scaling_factor = {factor:g} is left out: a {family} has none, and the weights of its experts are "
            "not scaled",
            "routed_scaling_factor",
        )
    else:
        router["routed_scaling_factor"] = factor
    router |= _balance(facts, defaults, scoring)
    router |= _capacity(facts)
    if facts.is_on("forced_balance"):
        router["force_balance"] = "round_robin"
    return router


def _groups(facts: Facts, defaults: Defaults) -> dict[str, int]:
    groups = facts.count("n_group", defaults.get("n_group") or 1) or 1
    if groups <= 1:
        return {}
    if facts.generation is Generation.LEGACY and not str(facts.value("choice", "greedy")).startswith("group_limited"):
        facts.note("model", f"n_group = {groups} is read with topk_method group_limited_greedy alone", "n_group")
        return {}
    return {"n_group": groups, "topk_group": facts.count("topk_group", defaults.get("topk_group") or 1) or 1}


def _scoring(facts: Facts, family: str) -> str:
    usual = "sigmoid" if family in ("deepseek_v3", "glm4_moe") else "softmax"
    written = facts.value("scoring")
    scoring = _SCORINGS.get(written, str(written)) if written is not None else None
    is_useless = facts.generation is Generation.CORE and facts.has("scoring") and scoring != usual
    if scoring is not None and scoring != usual:
        read = " (MindFormers does not read scoring_func)" if is_useless else ""
        facts.refuse("scoring", f"does not go with a {family}, whose router is {usual}{read}")
    elif scoring is None and usual == "sigmoid" and facts.generation is Generation.LEGACY:
        facts.note("model", "use_gating_sigmoid is not written; DeepSeek-V3's router is sigmoid, and so it is here")
    return usual


def _is_normalised(facts: Facts, defaults: Defaults, scoring: str, family: str) -> bool:
    is_normalised = facts.is_on("norm_topk_prob", default=bool(defaults["norm_topk_prob"]))
    if family == "mixtral" and not is_normalised:
        facts.refuse("norm_topk_prob", "does not go with a mixtral, which divides by the sum")
    is_over_chosen = facts.generation is not Generation.LEGACY and not facts.is_on("pre_softmax")
    if scoring == "softmax" and is_over_chosen and not is_normalised:
        facts.note("model", "a softmax over the chosen experts alone is norm_topk_prob: true", "pre_softmax")
        return True
    return is_normalised


def _balance(facts: Facts, defaults: Defaults, scoring: str) -> dict[str, Any]:
    weight = _balance_weight(facts, defaults)
    kind = str(facts.value("balance_kind", "sub_seq_aux_loss")).lower()
    if kind not in (*_SEQUENCE, *_WIDER, "none"):
        facts.refuse("balance_kind", f"is not known; use one of {', '.join((*_SEQUENCE, *_WIDER))}")
    weight = 0.0 if kind == "none" else weight
    if kind == "sub_seq_aux_loss" and facts.has("balance_kind") and weight:
        facts.note("model", "load is measured over whole sequences, not over the parts of ranks", "balance_kind")
    if scoring == "sigmoid":
        if kind in _WIDER and weight:
            facts.note("model", f"{kind} measures load over each sequence here", "balance_kind")
        return {"bias_update_rate": _bias_rate(facts, defaults), "sequence_balance_loss": weight}
    if facts.is_on("bias_is_on"):
        facts.refuse("bias_is_on", "goes with a sigmoid router only")
    balance: dict[str, Any] = {"balance_loss": weight}
    if kind in _WIDER and weight:
        balance["balance_loss_scope"] = "micro_batch"
        if kind != "aux_loss":
            facts.note("model", f"{kind} measures load over the micro-batch of a rank here", "balance_kind")
    return balance


def _balance_weight(facts: Facts, defaults: Defaults) -> float:
    """Legacy files have lists of types and weights, of which only `expert` is a loss of this kind."""
    if not facts.has("balance_types") and not facts.has("balance_weights"):
        return facts.number("balance_weight", defaults["balance_weight"])
    types = facts.words("balance_types")
    weights = facts.value("balance_weights", [])
    weights = weights if isinstance(weights, list) else [weights]
    if len(types) != len(weights):
        facts.refuse("balance_types", f"has {len(types)} types for {len(weights)} aux_loss_factors")
        return 0.0
    losses = dict(zip(types, (float(weight) for weight in weights), strict=True))
    for kind, weight in losses.items():
        if kind != "expert" and weight:
            facts.note("model", f"the loss of the type {kind}, between devices, is left out", "balance_types")
    return losses.get("expert", 0.0)


def _bias_rate(facts: Facts, defaults: Defaults) -> float:
    rate = facts.number("bias_update_rate", defaults["bias_update_rate"])
    if not facts.is_on("bias_is_on", default=bool(defaults["bias_is_on"])):
        if facts.has("bias_update_rate") and rate:
            facts.note("model", "the bias is switched off, and its rate is 0", "bias_is_on", "bias_update_rate")
        return 0.0
    if facts.generation is not Generation.PYNATIVE and not facts.has("bias_callback") and rate:
        facts.note(
            "model",
            "the bias moves after each step; MindFormers would leave it alone, as TopkBiasBalanceCallback is not among "
            "the callbacks",
            "bias_update_rate",
        )
    return rate


def _capacity(facts: Facts) -> dict[str, Any]:
    factor = facts.number("capacity_factor", 0.0)
    if factor <= 0 or facts.is_on("is_grouped_product"):
        return {}
    if facts.count("tensor_parallel", 1) == 1 and facts.count("context_parallel", 1) == 1:
        return {"capacity_factor": factor}
    facts.note(
        "model",
        f"capacity_factor = {factor:g} is left out, and no token is dropped: a capacity is measured on whole "
        "sequences, without tensor or context parallelism",
        "capacity_factor",
    )
    return {}
