"""The model section out of the facts of a MindFormers file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight.compat.defaults import FAMILIES, LATENT, WITH_WINDOWS, Defaults, defaults_of
from firstlight.compat.facts import Facts
from firstlight.compat.feed_forward_section import build_feed_forward
from firstlight.compat.loaded_path import is_own_folder
from firstlight.compat.rope_section import build_rope

Section = dict[str, Any]

_NAMES = ("architectures", "model_type", "legacy_class", "legacy_config")


def family_of(facts: Facts) -> str | None:
    """The family; None where the file leaves it to a folder that is not here. Unknown ones are refused."""
    families: dict[str, str] = {}
    for fact in _NAMES:
        for word in facts.words(fact):
            known = facts.registered.get(word.lower()) or FAMILIES.get(word.lower())
            if known is None:
                usable = ", ".join(sorted(set(FAMILIES.values())))
                facts.refuse(fact, f"is no model that is there; those are {usable}")
                return None
            families.setdefault(known, fact)
    if len(families) > 1:
        said = " and ".join(f"{fact} says {family}" for family, fact in families.items())
        facts.refuse(next(iter(families.values())), f"contradicts another key: {said}")
    family = next(iter(families), None)
    return _refined(facts, family) if family else None


def _refined(facts: Facts, family: str) -> str:
    """A legacy Llama is several families."""
    if family == "llama" and facts.count("n_routed_experts", 1) > 1:
        return "mixtral"
    if family == "llama" and facts.is_on("attention_bias"):
        return "qwen2"
    return family


def build_model(facts: Facts, sequence_length: int) -> Section:
    """The whole section, nothing of it left to defaults that might change."""
    family = family_of(facts)
    if family is None:
        return _from_folder(facts)
    defaults = defaults_of(facts.generation, family)
    _say_whose_layers(facts, family)
    section: Section = {"family": family, **_from_hub(facts)}
    for key in ("vocab_size", "hidden_size", "num_hidden_layers"):
        section[key] = required(facts, defaults, key)
    positions = facts.count("max_position_embeddings", defaults.get("max_position_embeddings") or sequence_length)
    section["max_position_embeddings"] = max(positions, sequence_length)
    section["rms_norm_eps"] = facts.number("rms_norm_eps", defaults["rms_norm_eps"])
    section["tie_word_embeddings"] = _tied(facts)
    section["initializer_range"] = facts.number("initializer_range", defaults["initializer_range"])
    latent = family in LATENT
    if facts.has("latent") and facts.is_on("latent") != latent:
        facts.refuse("latent", f"does not go with the model, a {family}")
    section["attention"] = _latent(facts, defaults) if latent else _grouped(facts, defaults, family)
    section["feed_forward"] = build_feed_forward(facts, defaults, family)
    layers = facts.count("num_mtp_layers", defaults["num_mtp_layers"])
    if layers:
        weight = facts.number("mtp_loss_weight", defaults["mtp_loss_weight"])
        section["multi_token_prediction"] = {"num_layers": layers, "loss_weight": weight}
    return section


def num_layers(facts: Facts, model: Mapping[str, Any]) -> tuple[int, int]:
    """Decoder layers, and layers of multi-token prediction, of a built section."""
    prediction = model.get("multi_token_prediction") or {}
    return int(model.get("num_hidden_layers") or facts.count("num_hidden_layers", 0)), int(
        prediction.get("num_layers", 0)
    )


def required(facts: Facts, defaults: Defaults, fact: str) -> int:
    """A count that the file or the class must give."""
    default = defaults.get(fact)
    if default is None and not facts.has(fact):
        facts.faults.append(f"the model has no {fact}; write it into the model section")
        return 1
    return facts.count(fact, default or 1)


def _from_folder(facts: Facts) -> Section:
    """A model that a Hugging Face folder describes, which could not be read."""
    if facts.faults and not facts.has("config_folder"):
        return {}
    if not facts.has("config_folder") or not facts.value("config_folder"):
        facts.faults.append("the model has no architectures, model_type or class; write one into the model section")
        return {}
    folder = str(facts.value("config_folder"))
    facts.note(
        "model",
        f"the sizes come out of {folder}/config.json, which is not there; from_hf also starts with its weights",
        "config_folder",
    )
    return {"from_hf": folder}


def _from_hub(facts: Facts) -> Section:
    """Weights to begin with: a Hugging Face folder."""
    path = str(facts.value("load_path", "") or "")
    if not path:
        return {}
    if (Path(path) / "config.json").is_file():
        return {"from_hf": path}
    if is_own_folder(path, str(facts.value("output_folder", "./output"))):
        facts.note("model", "a run goes on from its own folder by itself", "load_path")
        return {}
    facts.refuse(
        "load_path",
        "is no Hugging Face folder with a config.json; make one with `firstlight convert`, name it there, or leave the "
        "key empty to begin anew or to go on from the run's own folder",
    )
    return {}


def _say_whose_layers(facts: Facts, family: str) -> None:
    for fact in ("model_type", "architectures"):
        for word in facts.words(fact):
            if word.lower().startswith("telechat3"):
                facts.note("model", f"{word} is built of the layers of {family}", fact)
                return


def _tied(facts: Facts) -> bool:
    tied = facts.is_on("tie_word_embeddings")
    if facts.has("untie_embeddings"):
        untied = facts.is_on("untie_embeddings")
        if facts.has("tie_word_embeddings") and tied == untied:
            facts.refuse("untie_embeddings", f"contradicts tie_word_embeddings = {tied}")
        return not untied
    return tied


def _latent(facts: Facts, defaults: Defaults) -> Section:
    section: Section = {
        "kind": "mla",
        "num_attention_heads": required(facts, defaults, "num_attention_heads"),
        "q_lora_rank": facts.value("q_lora_rank", defaults.get("q_lora_rank")) or None,
    }
    for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        section[key] = required(facts, defaults, key)
    if facts.has("qk_norm") and not facts.is_on("qk_norm"):
        facts.refuse("qk_norm", "is not there: latent attention normalises its latents")
    section["rope"] = build_rope(facts, defaults, latent=True)
    return section


def _grouped(facts: Facts, defaults: Defaults, family: str) -> Section:
    heads = required(facts, defaults, "num_attention_heads")
    section: Section = {
        "kind": "gqa",
        "num_attention_heads": heads,
        "num_key_value_heads": facts.count("num_key_value_heads", defaults.get("num_key_value_heads") or heads),
        "rope": build_rope(facts, defaults, latent=False),
    }
    head_dim = facts.value("head_dim", defaults.get("head_dim"))
    if head_dim:
        section["head_dim"] = int(head_dim)
    if facts.is_on("attention_bias"):
        section["bias"] = "qkv"
    if facts.is_on("qk_norm", default=family in ("qwen3", "qwen3_moe")):
        section["qk_norm"] = "per_head"
    window = _window(facts, family)
    if window is not None:
        section["window"] = window
    return section


def _window(facts: Facts, family: str) -> Section | None:
    """As Megatron counts: so many positions to the left, and its own; and every how many layers one sees everything."""
    sides, every = facts.value("window"), facts.value("full_every")
    if sides is None or list(sides) == [-1, -1]:
        return None
    left, right = sides
    if family not in WITH_WINDOWS:
        facts.refuse("window", f"is not there: a {family} model sees everything")
    elif right > 0 or left < 0:
        facts.refuse("window", "does not end at the position itself, as in [127, 0]")
    elif every is not None and not isinstance(every, int):
        facts.refuse("full_every", "is a list; a number is translated: every so manieth layer sees everything")
    window: Section = {"kind": "sliding", "size": int(left) + 1}
    return window if not isinstance(every, int) or every < 2 else {**window, "full_every": every}
