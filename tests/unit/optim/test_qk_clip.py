"""QK-clip against what it is for: the logits of a clipped head are those of before, times threshold / largest."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from firstlight.config.model import ModelConfig
from firstlight.config.optimizer import QkClip as QkClipConfig
from firstlight.models.decoder import Decoder
from firstlight.ops.attention import causal_attention
from firstlight.optim.qk_clip import QkClip
from tests.unit.models.tiny_model import deepseek, filled, llama, of_family, random_tokens

MODELS: Mapping[str, ModelConfig] = {
    "latent": deepseek(),
    "latent_without_query_rank": of_family("deepseek_v2"),
    "grouped": llama(attention={"num_attention_heads": 8, "num_key_value_heads": 2}),
    "one_key_head_each": llama(attention={"num_attention_heads": 4, "num_key_value_heads": 4}),
    "with_biases": of_family("qwen2"),
    "partly_rotated": of_family("glm4"),
}


def logits_of(model: Decoder) -> Tensor:
    """The scores of the first layer's attention [b, h, s, s], whose input no clipping changes."""
    seen: list[Tensor] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float, **others: object) -> Tensor:
        del others
        shared = query.shape[1] // key.shape[1]
        seen.append(query @ key.repeat_interleave(shared, dim=1).transpose(-2, -1) * scale)
        return causal_attention(query, key, value, scale=scale)

    attention = model.layers["0"].attention
    before, attention.attend = attention.attend, attend
    with torch.no_grad():
        model.logits(random_tokens(2, 12))
    attention.attend = before
    return seen[0]


def largest_of(logits: Tensor) -> Tensor:
    return logits.masked_fill(torch.ones(logits.shape[-2:]).triu(1).bool(), float("-inf")).amax((0, 2, 3))


@pytest.mark.parametrize("name", MODELS)
def test_heads_above_the_threshold_come_down_to_it_and_the_others_stay(name: str) -> None:
    config = MODELS[name]
    model = filled(config, dtype=torch.float64)
    before = logits_of(model)
    largest = largest_of(before)
    threshold = float(largest.median())
    assert threshold > 0
    values = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    clip = QkClip(
        dict(model.named_parameters()),
        config.attention,
        QkClipConfig(threshold=threshold),
        lambda: {"layers.0": largest, "layers.1": torch.full_like(largest, threshold / 2)},
    )
    clip()
    gamma = (threshold / largest).clamp(max=1)
    after = logits_of(model)
    torch.testing.assert_close(after, before * gamma[:, None, None], rtol=1e-10, atol=1e-12)
    clipped = largest > threshold
    assert clipped.any()
    assert not clipped.all()
    torch.testing.assert_close(largest_of(after)[clipped], torch.full_like(largest[clipped], threshold))
    changed = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, values[key])}
    assert changed
    assert all(key.startswith("layers.0.attention.") and "_a_" not in key for key in changed)
    assert not any("v_proj" in key or "o_proj" in key for key in changed)


def test_values_and_the_shared_key_of_latent_attention_are_left_alone() -> None:
    config = deepseek()
    attention = config.attention
    assert attention.kind == "mla"
    model = filled(config, dtype=torch.float64)
    weight = model.layers["0"].attention.kv_b_proj.weight
    before = weight.detach().clone()
    largest = torch.tensor([16.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    QkClip(dict(model.named_parameters()), attention, QkClipConfig(threshold=4), lambda: {"layers.0": largest})()
    by_head = (weight.detach() / before).unflatten(0, (attention.num_attention_heads, -1))
    nope = attention.qk_nope_head_dim
    torch.testing.assert_close(by_head[0, :nope], torch.full_like(by_head[0, :nope], 0.5))
    assert torch.equal(by_head[0, nope:], torch.ones_like(by_head[0, nope:]))
    assert torch.equal(by_head[1:], torch.ones_like(by_head[1:]))


def test_what_is_not_above_the_threshold_changes_nothing() -> None:
    model = filled(llama())
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    largest = {"layers.0": torch.tensor([3.0, -5.0, float("-inf"), 4.0], dtype=torch.float64)}
    QkClip(dict(model.named_parameters()), llama().attention, QkClipConfig(threshold=4), lambda: largest)()
    assert all(torch.equal(parameter, before[key]) for key, parameter in model.named_parameters())
