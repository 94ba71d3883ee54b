"""config.json both ways: what families write they read, and what they do not know they refuse by its name."""

from typing import Any

import pytest

from firstlight.base.errors import InputError
from firstlight.config.families import FAMILY_CHOICES, refused_choices
from firstlight.config.model import GroupedQueryAttention, ModelConfig, MoeFeedForward
from firstlight.models.family import FAMILIES, family_of, family_of_config_json
from tests.unit.models.released import DEEPSEEK_V2, DEEPSEEK_V3, GPT_OSS_20B, KIMI_K2, LLAMA_31_8B, QWEN3_30B, RELEASED
from tests.unit.models.released import QWEN25_72B as QWEN25
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

YARN = {"kind": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"kind": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}
CONFIGS = {
    "deepseek": deepseek(multi_token_prediction={}, attention={"rope": {"scaling": YARN}}),
    "deepseek_half_split": deepseek(attention={"q_lora_rank": None, "rope": {"layout": "half_split"}}),
    "deepseek_dense": deepseek(feed_forward={"kind": "dense", "intermediate_size": 48}),
    "llama": llama(attention={"bias": "all", "rope": {"theta": 5e5, "scaling": LLAMA3}}),
    "gpt_oss_full": of_family("gpt_oss", attention={**OTHER_FAMILIES["gpt_oss"]["attention"], "window": None}),
    **{family: of_family(family) for family in OTHER_FAMILIES},
}


def read(values: dict[str, Any]) -> ModelConfig:
    return family_of_config_json(values).read_config_json(values)


def test_the_registries_have_the_same_families() -> None:
    assert set(FAMILIES) == set(FAMILY_CHOICES)
    assert all(family.name == name for name, family in FAMILIES.items())
    model_types = [model_type for family in FAMILIES.values() for model_type in family.model_types]
    assert len(model_types) == len(set(model_types))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_is_written_is_read(config: ModelConfig) -> None:
    assert not list(refused_choices(config))
    written = family_of(config).config_json(config)
    assert family_of_config_json(written) is family_of(config)
    assert read(written) == config


@pytest.mark.parametrize(("values", "_total"), RELEASED.values(), ids=RELEASED)
def test_released_files_say_the_same_after_a_round(values: dict[str, Any], _total: int) -> None:
    config = read(values)
    assert read(family_of(config).config_json(config)) == config


def test_kimi_k2_is_a_configuration_of_deepseek_v3() -> None:
    kimi = read(KIMI_K2)
    assert kimi.family == "deepseek_v3"
    assert kimi.attention.rope.theta == 50000
    assert kimi.attention.rope.scaling is not None
    assert kimi.multi_token_prediction is None
    assert isinstance(kimi.feed_forward, MoeFeedForward)
    assert kimi.feed_forward.router.routed_scaling_factor == 2.827


def test_old_and_new_names_of_the_rotary_embedding_say_the_same() -> None:
    old = {key: value for key, value in LLAMA_31_8B.items() if key not in ("rope_theta", "rope_scaling")}
    new = {**old, "rope_parameters": {**LLAMA_31_8B["rope_scaling"], "rope_theta": LLAMA_31_8B["rope_theta"]}}
    assert read(new) == read(LLAMA_31_8B)


def test_layer_types_become_a_pattern() -> None:
    def window(**changes: Any) -> Any:
        attention = read({**QWEN25, "num_hidden_layers": 6, "use_sliding_window": True, **changes}).attention
        assert isinstance(attention, GroupedQueryAttention)
        return attention.window

    def types(letters: str) -> list[str]:
        return [{"S": "sliding_attention", "F": "full_attention"}[letter] for letter in letters]

    assert window(max_window_layers=6) is None
    assert [window(max_window_layers=4).slides(layer) for layer in range(6)] == [False] * 4 + [True] * 2
    for letters in ("SSSSSS", "FFSSSS", "SFSFSF", "SSFSSF", "SSSSSF"):
        found = window(layer_types=types(letters), sliding_window=7)
        assert found.size == 7
        assert ["S" if found.slides(layer) else "F" for layer in range(6)] == list(letters)
    with pytest.raises(InputError, match="layer_types = .* follow no pattern"):
        window(layer_types=types("FSSFSS"))


REFUSED = {
    "unknown": (LLAMA_31_8B, {"swa_gate": 3}, "swa_gate = 3 is not known"),
    "activation": (LLAMA_31_8B, {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; only 'silu' is"),
    "dropout": (LLAMA_31_8B, {"attention_dropout": 0.1}, "attention_dropout = 0.1 is not supported"),
    "bias": (LLAMA_31_8B, {"mlp_bias": True}, "mlp_bias = True is not supported"),
    "rope type": (LLAMA_31_8B, {"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type = 'dynamic' is not sup"),
    "rope field": (DEEPSEEK_V3, {"rope_scaling": {**DEEPSEEK_V3["rope_scaling"], "x": 1}}, "have x, which is not kn"),
    "partial": (LLAMA_31_8B, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not a part of this fam"),
    "attention factor": (
        DEEPSEEK_V3,
        {"rope_scaling": {**DEEPSEEK_V3["rope_scaling"], "attention_factor": 2.0}},
        "rope_parameters.attention_factor = 2.0 is not what",
    ),
    "router": (DEEPSEEK_V3, {"scoring_func": "softmax"}, "scoring_func = 'softmax' is not supported; only 'sigmoid'"),
    "method": (DEEPSEEK_V2, {"topk_method": "noaux_tc"}, "topk_method = 'noaux_tc' is not supported"),
    "renormalised": (DEEPSEEK_V2, {"norm_topk_prob": True}, "norm_topk_prob = True is not supported"),
    "dense between": (QWEN3_30B, {"mlp_only_layers": [3]}, r"mlp_only_layers = \[3\] is not supported"),
    "every second": (QWEN3_30B, {"decoder_sparse_step": 2}, "decoder_sparse_step = 2 is not supported"),
    "no size": (GPT_OSS_20B, {"sliding_window": None}, "layer_types name sliding layers, and sliding_window gives no"),
    "section": (LLAMA_31_8B, {"num_key_value_heads": 5}, "num_key_value_heads = 5 does not divide"),
    "model type": (LLAMA_31_8B, {"model_type": "mamba"}, "model_type = 'mamba' is not known; known are deepseek_v2"),
}


@pytest.mark.parametrize(("values", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_there_is_no_part_for_is_refused(values: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read({**values, **changes})


def test_all_faults_are_told_at_once() -> None:
    values = {key: value for key, value in LLAMA_31_8B.items() if key != "hidden_size"}
    with pytest.raises(InputError) as caught:
        read({**values, "mlp_bias": True, "swa_gate": 3})
    for part in ("hidden_size is missing", "mlp_bias = True", "swa_gate = 3"):
        assert part in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_differ_in_their_choices(family: str) -> None:
    # A configuration of one family is refused by every other one that cannot say it in its config.json.
    config = CONFIGS.get(family) or CONFIGS["deepseek"]
    as_llama = config.model_copy(update={"family": "llama"})
    assert bool(list(refused_choices(as_llama))) == (family != "llama")


def test_a_soft_cap_has_no_field_there() -> None:
    model = llama(logit_soft_cap=30.0)
    with pytest.raises(InputError, match=r"model\.logit_soft_cap = 30\.0 has no field"):
        family_of(model).config_json(model)
