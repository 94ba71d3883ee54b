"""Parameters and FLOPs from the configuration alone, against built models, published figures and torch's counter."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from firstlight.config.model import ModelConfig, MoeFeedForward, MultiHeadLatentAttention
from firstlight.layout.counts import count_parameters, flops_per_token
from firstlight.models.family import family_of_config_json
from tests.unit.models.released import RELEASED
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, filled, llama, meta_model, of_family, random_tokens

DENSE = {"kind": "dense", "intermediate_size": 48}


def deepseek_v3(**model: Any) -> ModelConfig:
    """DeepSeek-V3 671B as released; without multi-token prediction."""
    return deepseek(
        vocab_size=129280,
        hidden_size=7168,
        num_hidden_layers=61,
        attention={
            "num_attention_heads": 128,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
        feed_forward={
            "first_k_dense_replace": 3,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 256,
        },
        router={"num_experts_per_tok": 8, "n_group": 8, "topk_group": 4},
        **model,
    )


def llama_31(*, hidden_size: int, layers: int, heads: int, intermediate_size: int) -> ModelConfig:
    """Llama 3.1, which has 8 key/value heads at every size."""
    return llama(
        vocab_size=128256,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        attention={"num_attention_heads": heads, "num_key_value_heads": 8},
        feed_forward={"kind": "dense", "intermediate_size": intermediate_size},
    )


CONFIGS = {
    "llama": llama(),
    "llama_tied": llama(tie_word_embeddings=True),
    "llama_one_key_head": llama(attention={"num_key_value_heads": 1}),
    "llama_all_key_heads": llama(attention={"num_key_value_heads": 4}),
    "llama_wide_heads": llama(attention={"head_dim": 24}),
    "deepseek": deepseek(),
    "deepseek_tied": deepseek(tie_word_embeddings=True, multi_token_prediction={}),
    "deepseek_plain_query": deepseek(attention={"q_lora_rank": None}),
    "deepseek_dense": deepseek(feed_forward=DENSE, multi_token_prediction={}),
    "deepseek_wide_value": deepseek(attention={"v_head_dim": 20}),
    "deepseek_mtp_1": deepseek(multi_token_prediction={"num_layers": 1}),
    "deepseek_mtp_2": deepseek(multi_token_prediction={"num_layers": 2}, attention={"q_lora_rank": None}),
    "deepseek_no_shared": deepseek(feed_forward={"n_shared_experts": 0}),
    "deepseek_two_shared": deepseek(feed_forward={"n_shared_experts": 2}),
    "deepseek_no_dense_layer": deepseek(feed_forward={"first_k_dense_replace": 0, "intermediate_size": None}),
    # The MTP layer is the first one that is not dense.
    "deepseek_experts_in_mtp_alone": deepseek(feed_forward={"first_k_dense_replace": 3}, multi_token_prediction={}),
    **{family: of_family(family) for family in OTHER_FAMILIES},
    "deepseek_v3": deepseek_v3(),
    "deepseek_v3_mtp": deepseek_v3(multi_token_prediction={}),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_counts_are_those_of_the_built_model(config: ModelConfig) -> None:
    model = meta_model(config)
    counts = count_parameters(config)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())

    activated = 0
    for name, parameter in model.named_parameters():
        share = 1.0
        if ".experts." in name:
            assert isinstance(config.feed_forward, MoeFeedForward)
            share = config.feed_forward.router.num_experts_per_tok / config.feed_forward.n_routed_experts
        activated += round(parameter.numel() * share)
    # A look-up is no product, and the head is applied at every depth.
    activated += model.head.weight.numel() * len(model.mtp)
    if not config.tie_word_embeddings:
        activated -= model.embedding.weight.numel()
    assert counts.activated == activated


def test_deepseek_v3() -> None:
    # The 671,026,419,200 and 36,625,618,432 that are often given count its 14,848 correction biases (58 x 256) too.
    counts = count_parameters(deepseek_v3())
    assert counts.total == 671_026_404_352
    assert counts.activated == 36_625_618_432 - 14_848
    assert sum(buffer.numel() for buffer in meta_model(deepseek_v3()).buffers()) == 14_848


def test_deepseek_v3_with_multi_token_prediction() -> None:
    plain, with_mtp = count_parameters(deepseek_v3()), count_parameters(deepseek_v3(multi_token_prediction={}))
    # The layer, its projection and its norms; 256 correction biases are in the 11,610,068,224 often given.
    assert with_mtp.total - plain.total == 11_610_068_224 - 256
    # The activated part of that layer, and the head once more.
    assert with_mtp.activated - plain.activated == 688_100_608 - 256 + 129280 * 7168


@pytest.mark.parametrize(("config_json", "total"), RELEASED.values(), ids=RELEASED)
def test_released_models_by_their_config_json(config_json: dict[str, Any], total: int) -> None:
    config = family_of_config_json(config_json).read_config_json(config_json)
    assert count_parameters(config).total == total


QUICKLY_BUILT = ("gpt-oss-20b", "GLM-4.5-Air", "DeepSeek-V2-Lite", "GLM-4-9B-0414")


@pytest.mark.parametrize(
    "name", [name if name in QUICKLY_BUILT else pytest.param(name, marks=pytest.mark.slow) for name in RELEASED]
)
def test_released_models_as_they_are_built(name: str) -> None:
    config_json, total = RELEASED[name]
    model = meta_model(family_of_config_json(config_json).read_config_json(config_json))
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_flops_of_windows_count_the_positions_that_are_seen() -> None:
    # Position i of a layer that slides sees min(i + 1, w) positions, counted as everywhere without half of its own.
    length, window = 64, 16
    full = of_family("mixtral", attention={**OTHER_FAMILIES["mixtral"]["attention"], "window": None})
    slid = of_family("mixtral", attention={**OTHER_FAMILIES["mixtral"]["attention"], "window": {"size": window}})
    seen = [sum(min(i + 1, w) for i in range(length)) / length for w in (length, window)]
    difference = flops_per_token(full, length) - flops_per_token(slid, length)
    band = window - window**2 / (2 * length)
    assert difference == pytest.approx(6 * 3 * 4 * 24 * (length / 2 - band))
    assert length / 2 - band == pytest.approx(seen[0] - seen[1], abs=0.5)
    assert flops_per_token(slid, window) == flops_per_token(full, window)


def test_flops_of_alternating_windows() -> None:
    # gpt-oss-120b at 4096: half of its layers see 126 positions on average instead of 2048.
    config_json, _ = RELEASED["gpt-oss-120b"]
    config = family_of_config_json(config_json).read_config_json(config_json)
    scores = flops_per_token(config, 4096) - flops_per_token(config, 1)
    seen = 18 * (4096 / 2 + 128 - 128**2 / 8192) - 36 * 0.5
    assert scores == pytest.approx(6 * 64 * 128 * seen, rel=1e-9)
    # OpenAI gives 5.1 billion parameters that a token passes through (the model card's table 1).
    assert count_parameters(config).activated == pytest.approx(5.13e9, rel=0.01)


def test_llama_31() -> None:
    small = llama_31(hidden_size=4096, layers=32, heads=32, intermediate_size=14336)
    large = llama_31(hidden_size=16384, layers=126, heads=128, intermediate_size=53248)
    assert count_parameters(small).total == 8_030_261_248
    assert count_parameters(large).total == 405_853_388_800
    assert count_parameters(small).activated == 8_030_261_248 - 128256 * 4096


def test_flops_of_deepseek_v3() -> None:
    plain = flops_per_token(deepseek_v3(), 4096)
    assert plain == pytest.approx(2.504e11, rel=1e-3)
    # The published run: 14.8T tokens at 1541.7 tokens/s on each GPU are 385 TFLOP/s, as DeepSeek counts them.
    assert plain * 1541.7 == pytest.approx(385e12, rel=5e-3)


def test_flops_grow_with_half_the_length() -> None:
    # A position attends to half of the sequence on average: 6 x layers x heads x (192 + 128) / 2 for each token of it.
    shorter, longer = flops_per_token(deepseek_v3(), 4096), flops_per_token(deepseek_v3(), 8192)
    assert longer - shorter == pytest.approx(6 * 61 * 128 * 320 / 2 * 4096, rel=1e-9)


def test_flops_of_multi_token_prediction() -> None:
    # Its layer and projection, its attention, and the head once more.
    plain, with_mtp = (
        flops_per_token(deepseek_v3(), 4096),
        flops_per_token(deepseek_v3(multi_token_prediction={}), 4096),
    )
    matrices = 688_100_608 - 256 - (5 * 7168 + 1536 + 512) + 129280 * 7168
    assert with_mtp - plain == pytest.approx(6 * matrices + 6 * 4096 * 128 * 320 / 2, rel=1e-9)
    assert (with_mtp - plain) / plain == pytest.approx(0.0407, abs=2e-4)


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "llama_tied",
        "llama_one_key_head",
        "deepseek",
        "deepseek_plain_query",
        "qwen3_moe",
        "glm4",
        "deepseek_v2",
    ],
)
def test_flops_are_those_that_torch_counts(name: str) -> None:
    # In fp64 the experts run as plain products, which torch's counter knows. A forward pass is a third of a step.
    config = CONFIGS[name]
    model, tokens = filled(config, dtype=torch.float64), random_tokens(2, 24)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.logits(tokens)
    ours = flops_per_token(config, 24) / 3
    attention = config.attention
    width = (
        attention.qk_head_dim + attention.v_head_dim
        if isinstance(attention, MultiHeadLatentAttention)
        else 2 * attention.head_dim
    )
    # It sees whole score matrices of a block of queries, of which we count the causal half.
    ours += config.num_hidden_layers * 24 * attention.num_attention_heads * width
    assert ours == pytest.approx(counter.get_total_flops() / tokens.numel(), rel=1e-9)
