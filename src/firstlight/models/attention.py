"""Grouped-query attention and multi-head latent attention.

Shapes: b batch, s sequence, d model width, h query heads, g key/value heads, k query/key width, v value width.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, cat, empty, nn

from firstlight.config.model import GroupedQueryAttention, ModelConfig, MultiHeadLatentAttention
from firstlight.config.rope import RopeLayout, YarnScaling
from firstlight.models.layers import RmsNorm
from firstlight.models.places import Places
from firstlight.ops.attention import Attend, causal_attention
from firstlight.ops.attention_logits import LogitWatch
from firstlight.ops.rotary import RotaryTable, rotate_half_split, rotate_interleaved, yarn_mscale

_ROTATIONS: Mapping[RopeLayout, Callable[[Tensor, RotaryTable], Tensor]] = {
    "interleaved": rotate_interleaved,
    "half_split": rotate_half_split,
}
_LATENT_NORM_EPS = 1e-6
"""DeepSeek's latent norms keep this value whatever the model's rms_norm_eps is."""


class GroupedQuery(nn.Module):
    """Attention whose query heads share key/value heads, with what families add to it: biases, normalised queries and
    keys, sinks, a window. Rotation covers the first channels of a head, or all of them."""

    def __init__(self, model: ModelConfig, attention: GroupedQueryAttention, layer: int) -> None:
        super().__init__()
        self.config = attention
        self.window = attention.window_of(layer)
        query_size = attention.num_attention_heads * attention.head_dim
        key_size = attention.num_key_value_heads * attention.head_dim
        has_bias = attention.bias != "none"
        self.q_proj = nn.Linear(model.hidden_size, query_size, bias=has_bias)
        self.k_proj = nn.Linear(model.hidden_size, key_size, bias=has_bias)
        self.v_proj = nn.Linear(model.hidden_size, key_size, bias=has_bias)
        self.o_proj = nn.Linear(query_size, model.hidden_size, bias=attention.bias == "all")
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if attention.qk_norm == "per_head":
            self.q_norm = RmsNorm(attention.head_dim, model.rms_norm_eps)
            self.k_norm = RmsNorm(attention.head_dim, model.rms_norm_eps)
        self.attend: Attend = causal_attention
        self.logits: LogitWatch | None = None
        self.sinks: nn.Parameter | None = None
        if attention.has_sinks:
            self.sinks = nn.Parameter(empty(attention.num_attention_heads))

    def forward(self, hidden_bsd: Tensor, places: Places) -> Tensor:
        width = self.config.head_dim
        query_bhsk = self.q_norm(_heads(self.q_proj(hidden_bsd), width))
        key_bgsk = self.k_norm(_heads(self.k_proj(hidden_bsd), width))
        out_bhsv = self.attend(
            self._rotated(query_bhsk, places.rope),
            self._rotated(key_bgsk, places.rope),
            _heads(self.v_proj(hidden_bsd), width),
            scale=width**-0.5,
            visibility=places.visibility,
            window=self.window,
            sinks_h=self.sinks,
            largest_h=None if self.logits is None else self.logits.heads(query_bhsk),
        )
        out: Tensor = self.o_proj(out_bhsv.transpose(1, 2).flatten(2))
        return out

    def _rotated(self, x_bhsk: Tensor, rope: RotaryTable) -> Tensor:
        rotate, width = _ROTATIONS[self.config.rope.layout], self.config.rotary_width
        if width == self.config.head_dim:
            return rotate(x_bhsk, rope)
        return cat((rotate(x_bhsk[..., :width], rope), x_bhsk[..., width:]), dim=-1)


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
        self.shared_key = nn.Identity()
        self.attend: Attend = causal_attention
        self.logits: LogitWatch | None = None
        self.scale = softmax_scale(attention)

    def forward(self, hidden_bsd: Tensor, places: Places) -> Tensor:
        config, rope = self.config, places.rope
        nope, rotated, rotate = config.qk_nope_head_dim, config.qk_rope_head_dim, _ROTATIONS[config.rope.layout]
        query_bhsk = _heads(self._query(hidden_bsd), config.qk_head_dim)
        query_nope, query_rope = query_bhsk.split([nope, rotated], dim=-1)
        latent, key_rope = self.kv_a_proj(hidden_bsd).split([config.kv_lora_rank, rotated], dim=-1)
        up = _heads(self.kv_b_proj(self.kv_a_norm(latent)), nope + config.v_head_dim)
        key_nope, value_bhsv = up.split([nope, config.v_head_dim], dim=-1)
        shared_key = rotate(self.shared_key(key_rope).unsqueeze(1), rope).expand(-1, key_nope.shape[1], -1, -1)
        out_bhsv = self.attend(
            cat((query_nope, rotate(query_rope, rope)), dim=-1),
            cat((key_nope, shared_key), dim=-1),
            value_bhsv,
            scale=self.scale,
            visibility=places.visibility,
            largest_h=None if self.logits is None else self.logits.heads(query_bhsk),
        )
        out: Tensor = self.o_proj(out_bhsv.transpose(1, 2).flatten(2))
        return out

    def _query(self, hidden_bsd: Tensor) -> Tensor:
        if self.config.q_lora_rank is None:
            query: Tensor = self.q_proj(hidden_bsd)
        else:
            query = self.q_b_proj(self.q_a_norm(self.q_a_proj(hidden_bsd)))
        return query


def build_attention(model: ModelConfig, layer: int) -> nn.Module:
    """The attention that the configuration names, for decoder layer `layer`."""
    match model.attention:
        case GroupedQueryAttention() as attention:
            return GroupedQuery(model, attention, layer)
        case MultiHeadLatentAttention() as attention:
            return MultiHeadLatent(model, attention)


def softmax_scale(attention: MultiHeadLatentAttention) -> float:
    """1 / sqrt(k), times the square of YaRN's temperature when the context is stretched."""
    scale = attention.qk_head_dim**-0.5
    scaling = attention.rope.scaling
    if isinstance(scaling, YarnScaling):
        scale *= yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2
    return float(scale)


def _heads(x_bsd: Tensor, width: int) -> Tensor:
    heads_bhsk: Tensor = x_bsd.unflatten(-1, (-1, width)).transpose(1, 2)
    return heads_bhsk
