"""Softmax scales and rotary tables as the configuration gives them. The attentions themselves: tests/parity."""

import pytest
import torch

from firstlight.config.load import load
from firstlight.config.model import MultiHeadLatentAttention
from firstlight.config.rope import Llama3Scaling, Rope, YarnScaling
from firstlight.layout.counts import count_parameters
from firstlight.models.attention import MultiHeadLatent, build_attention
from firstlight.models.layers import RmsNorm, rotary_table
from firstlight.ops.rotary import yarn_mscale
from tests.architecture.sources import ROOT
from tests.unit.models.tiny_model import deepseek, llama

DEEPSEEK_V3 = {
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
YARN = {"kind": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale_all_dim": 1.0}


@pytest.mark.parametrize(("scaling", "scale"), [(None, 0.0721688), (YARN, 0.135234)], ids=["plain", "yarn"])
def test_softmax_scale_of_deepseek_v3(scaling: object, scale: float) -> None:
    config = deepseek(attention={**DEEPSEEK_V3, "rope": {"scaling": scaling}})
    assert isinstance(config.attention, MultiHeadLatentAttention)
    with torch.device("meta"):
        attention = build_attention(config, 0)
    assert isinstance(attention, MultiHeadLatent)
    assert attention.scale == pytest.approx(scale, abs=5e-7)


def test_plain_table_holds_the_angles() -> None:
    table = rotary_table(Rope(theta=100.0), 4, torch.arange(3))
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.1], [2.0, 0.2]])
    torch.testing.assert_close(table.cos_sf, angles.cos())
    torch.testing.assert_close(table.sin_sf, angles.sin())
    assert table.cos_sf.dtype == torch.float32


@pytest.mark.parametrize(("mscale", "all_dim"), [(1.0, 1.0), (1.0, 0.0), (0.707, 1.0)])
def test_yarn_multiplies_the_table_by_the_ratio_of_the_temperatures(mscale: float, all_dim: float) -> None:
    yarn = YarnScaling(factor=40, original_max_position_embeddings=4096, mscale=mscale, mscale_all_dim=all_dim)
    table = rotary_table(Rope(scaling=yarn), 64, torch.arange(7))
    ratio = yarn_mscale(40, mscale) / yarn_mscale(40, all_dim)
    length = (table.cos_sf.square() + table.sin_sf.square()).sqrt()
    torch.testing.assert_close(length, torch.full_like(length, ratio))
    # The fastest pair is not stretched, the slowest is, by the whole factor.
    assert table.sin_sf[1, 0].item() == pytest.approx(ratio * torch.tensor(1.0).sin().item(), rel=1e-6)
    slowest = 10000.0 ** (-62 / 64) / 40
    assert table.sin_sf[1, -1].item() == pytest.approx(ratio * slowest, rel=1e-4)


def test_llama3_scaling_reaches_the_table() -> None:
    scaling = Llama3Scaling(factor=8.0, original_max_position_embeddings=64)
    table = rotary_table(Rope(theta=500000.0, scaling=scaling), 16, torch.arange(2))
    slowest = 500000.0 ** (-14 / 16) / 8
    assert table.sin_sf[1, -1].item() == pytest.approx(slowest, rel=1e-4)


def test_width_of_a_head_follows_from_the_hidden_size() -> None:
    attention = llama().attention
    assert (attention.head_dim, attention.num_key_value_heads) == (8, 2)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_by_hand(eps: float) -> None:
    norm = RmsNorm(5, eps).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6.0))
    x = torch.tensor([[1.0, -2.0, 3.0, 0.0, 1.0]], dtype=torch.float64)
    expected = [
        value / (15 / 5 + eps) ** 0.5 * weight for value, weight in zip(x[0].tolist(), range(1, 6), strict=True)
    ]
    assert norm(x)[0].tolist() == pytest.approx(expected)


def test_latent_norms_keep_deepseeks_eps() -> None:
    with torch.device("meta"):
        attention = build_attention(deepseek(rms_norm_eps=0.1), 0)
    assert isinstance(attention, MultiHeadLatent)
    assert attention.q_a_norm.eps == attention.kv_a_norm.eps == 1e-6


@pytest.mark.parametrize(("phase", "scale"), [("4k", 192**-0.5), ("32k", 192**-0.5 * 1.36888794**2)])
def test_phases_of_deepseek_v3_differ_in_the_rotary_embedding(phase: str, scale: float) -> None:
    config = load(ROOT / "examples" / f"deepseek-v3-{phase}.yaml").config.model
    assert count_parameters(config).total == 671_026_404_352 + 11_610_068_224 - 256  # as released, with its MTP layer
    with torch.device("meta"):
        attention = build_attention(config, 0)
    assert isinstance(attention, MultiHeadLatent)
    assert attention.scale == pytest.approx(scale, rel=1e-8)
    # One rotation a position at the fastest pair in both phases; from pair 23 on 40 times slower when stretched.
    table = rotary_table(config.attention.rope, 64, torch.arange(2))
    plain = torch.tensor([10000.0 ** (-2 * pair / 64) for pair in range(32)])
    stretched = (plain / table.sin_sf[1].asin()).tolist()
    assert stretched[1:11] == pytest.approx([1.0] * 10, rel=1e-4)
    assert stretched[23:] == pytest.approx([1.0 if phase == "4k" else 40.0] * 9, rel=1e-4)
    assert (stretched[12] > 1.01) == (phase == "32k")
