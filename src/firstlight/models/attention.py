"""Grouped-query attention and multi-head latent attention.

Shapes: b batch, s sequence, d model width, h query heads, g key/value heads, k query/key width, v value width.
"""

from torch import Tensor, cat, nn

from firstlight.config.model import Attention, GroupedQueryAttention, ModelConfig, MultiHeadLatentAttention, YarnScaling
from firstlight.models.layers import RmsNorm
from firstlight.ops.attention import causal_attention
from firstlight.ops.rotary import RotaryTable, rotate_half_split, rotate_interleaved, yarn_mscale

_LATENT_NORM_EPS = 1e-6
"""DeepSeek's latent norms keep this value whatever the model's rms_norm_eps is."""


class GroupedQuery(nn.Module):
    """Llama's attention: rotary embedding over whole heads, half-split pairs."""

    def __init__(self, model: ModelConfig, attention: GroupedQueryAttention) -> None:
        super().__init__()
        self.config = attention
        query_size = attention.num_attention_heads * attention.head_dim
        key_size = attention.num_key_value_heads * attention.head_dim
        self.q_proj = nn.Linear(model.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(model.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(model.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, model.hidden_size, bias=False)

    def forward(self, hidden_bsd: Tensor, rope: RotaryTable) -> Tensor:
        width = self.config.head_dim
        query_bhsk = _heads(self.q_proj(hidden_bsd), width)
        key_bgsk = _heads(self.k_proj(hidden_bsd), width)
        value_bgsv = _heads(self.v_proj(hidden_bsd), width)
        out_bhsv = causal_attention(
            rotate_half_split(query_bhsk, rope), rotate_half_split(key_bgsk, rope), value_bgsv, scale=width**-0.5
        )
        out: Tensor = self.o_proj(out_bhsv.transpose(1, 2).flatten(2))
        return out


class MultiHeadLatent(nn.Module):
    """DeepSeek-V3's attention (arXiv:2412.19437, equations 1 to 11), in the expanded form used for training.

    Keys and values are projected up from one normalised latent; one rotated key part is shared by all heads.
    """

    def __init__(self, model: ModelConfig, attention: MultiHeadLatentAttention) -> None:
        super().__init__()
        self.config = attention
        heads = attention.num_attention_heads
        query_size = heads * attention.qk_head_dim
        if attention.q_lora_rank is None:
            self.q_proj = nn.Linear(model.hidden_size, query_size, bias=False)
        else:
            self.q_a_proj = nn.Linear(model.hidden_size, attention.q_lora_rank, bias=False)
            self.q_a_norm = RmsNorm(attention.q_lora_rank, _LATENT_NORM_EPS)
            self.q_b_proj = nn.Linear(attention.q_lora_rank, query_size, bias=False)
        kv_size = heads * (attention.qk_nope_head_dim + attention.v_head_dim)
        self.kv_a_proj = nn.Linear(model.hidden_size, attention.kv_lora_rank + attention.qk_rope_head_dim, bias=False)
        self.kv_a_norm = RmsNorm(attention.kv_lora_rank, _LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(attention.kv_lora_rank, kv_size, bias=False)
        self.o_proj = nn.Linear(heads * attention.v_head_dim, model.hidden_size, bias=False)
        self.scale = _softmax_scale(attention)

    def forward(self, hidden_bsd: Tensor, rope: RotaryTable) -> Tensor:
        config = self.config
        nope, rotated = config.qk_nope_head_dim, config.qk_rope_head_dim
        query_bhsk = _heads(self._query(hidden_bsd), config.qk_head_dim)
        query_nope, query_rope = query_bhsk.split([nope, rotated], dim=-1)
        latent, key_rope = self.kv_a_proj(hidden_bsd).split([config.kv_lora_rank, rotated], dim=-1)
        up = _heads(self.kv_b_proj(self.kv_a_norm(latent)), nope + config.v_head_dim)
        key_nope, value_bhsv = up.split([nope, config.v_head_dim], dim=-1)
        shared_key = rotate_interleaved(key_rope.unsqueeze(1), rope).expand(-1, config.num_attention_heads, -1, -1)
        out_bhsv = causal_attention(
            cat((query_nope, rotate_interleaved(query_rope, rope)), dim=-1),
            cat((key_nope, shared_key), dim=-1),
            value_bhsv,
            scale=self.scale,
        )
        out: Tensor = self.o_proj(out_bhsv.transpose(1, 2).flatten(2))
        return out

    def _query(self, hidden_bsd: Tensor) -> Tensor:
        if self.config.q_lora_rank is None:
            query: Tensor = self.q_proj(hidden_bsd)
        else:
            query = self.q_b_proj(self.q_a_norm(self.q_a_proj(hidden_bsd)))
        return query


def build_attention(model: ModelConfig) -> nn.Module:
    """The attention that the configuration names."""
    match model.attention:
        case GroupedQueryAttention() as attention:
            return GroupedQuery(model, attention)
        case MultiHeadLatentAttention() as attention:
            return MultiHeadLatent(model, attention)


def rotary_width(attention: Attention) -> int:
    """How much of a query or key head is rotated."""
    return attention.qk_rope_head_dim if isinstance(attention, MultiHeadLatentAttention) else attention.head_dim


def _softmax_scale(attention: MultiHeadLatentAttention) -> float:
    """1 / sqrt(k), times the square of YaRN's temperature when the context is stretched."""
    scale = attention.qk_head_dim**-0.5
    scaling = attention.rope.scaling
    if isinstance(scaling, YarnScaling):
        scale *= yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2
    return float(scale)


def _heads(x_bsd: Tensor, width: int) -> Tensor:
    heads_bhsk: Tensor = x_bsd.unflatten(-1, (-1, width)).transpose(1, 2)
    return heads_bhsk
