"""The model section. Names are Hugging Face's; choices are tagged types, never flags."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from firstlight.config.section import Count, NotNegative, Positive, Section


class YarnScaling(Section):
    """YaRN (arXiv:2309.00071) as DeepSeek uses it: stretches the context to `factor` times the original."""

    kind: Literal["yarn"] = "yarn"
    factor: Positive
    original_max_position_embeddings: Count
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    mscale: NotNegative = 1.0
    mscale_all_dim: NotNegative = 0.0


class Llama3Scaling(Section):
    """Llama 3.1's frequency-dependent scaling."""

    kind: Literal["llama3"] = "llama3"
    factor: Positive
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Count


class Rope(Section):
    """Rotary position embedding."""

    theta: Positive = 10000.0
    scaling: Annotated[YarnScaling | Llama3Scaling, Field(discriminator="kind")] | None = None


class GroupedQueryAttention(Section):
    """Softmax attention whose query heads share key/value heads in groups."""

    kind: Literal["gqa"] = "gqa"
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    rope: Rope = Rope()

    @model_validator(mode="after")
    def _heads_group(self) -> "GroupedQueryAttention":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads = {self.num_key_value_heads} does not divide "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} is odd; rotary embedding rotates pairs")
        return self


class MultiHeadLatentAttention(Section):
    """DeepSeek's attention over compressed latents. `q_lora_rank: null` projects queries directly."""

    kind: Literal["mla"] = "mla"
    num_attention_heads: Count
    q_lora_rank: Count | None = None
    kv_lora_rank: Count
    qk_nope_head_dim: Count
    qk_rope_head_dim: Count
    v_head_dim: Count
    rope: Rope = Rope()

    @model_validator(mode="after")
    def _rope_rotates_pairs(self) -> "MultiHeadLatentAttention":
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim = {self.qk_rope_head_dim} is odd; rotary embedding rotates pairs")
        return self

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key head: the part without positions and the rotated part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


Attention = GroupedQueryAttention | MultiHeadLatentAttention


class DenseFeedForward(Section):
    """SwiGLU of width `intermediate_size` in every layer."""

    kind: Literal["dense"] = "dense"
    intermediate_size: Count


class Router(Section):
    """How tokens choose experts (DeepSeek-V3, arXiv:2412.19437, equations 12 to 20)."""

    scoring: Literal["sigmoid"] = "sigmoid"
    num_experts_per_tok: Count
    n_group: Count = 1
    topk_group: Count = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: Positive = 1.0
    bias_update_rate: NotNegative = 0.001
    """Step of the balancing bias (gamma) after each optimizer step; 0 leaves the bias alone."""
    sequence_balance_loss: NotNegative = 0.0001
    """Weight (alpha) of the sequence-wise balance loss."""


class MoeFeedForward(Section):
    """The first layers dense, the others a mixture of experts with shared experts beside them."""

    kind: Literal["moe"] = "moe"
    first_k_dense_replace: Annotated[int, Field(ge=0)] = 0
    intermediate_size: Count | None = None
    """Width of the dense layers; needed when there are any."""
    moe_intermediate_size: Count
    n_routed_experts: Count
    n_shared_experts: Annotated[int, Field(ge=0)] = 1
    router: Router

    @model_validator(mode="after")
    def _router_fits(self) -> "MoeFeedForward":
        router = self.router
        if self.first_k_dense_replace and self.intermediate_size is None:
            raise ValueError(
                f"first_k_dense_replace = {self.first_k_dense_replace} needs intermediate_size, the dense layers' width"
            )
        if self.n_routed_experts % router.n_group:
            raise ValueError(
                f"router.n_group = {router.n_group} does not divide n_routed_experts = {self.n_routed_experts}"
            )
        if router.topk_group > router.n_group:
            raise ValueError(f"router.topk_group = {router.topk_group} is more than router.n_group = {router.n_group}")
        reachable = self.n_routed_experts // router.n_group * router.topk_group
        if router.num_experts_per_tok > reachable:
            raise ValueError(
                f"router.num_experts_per_tok = {router.num_experts_per_tok} is more than the {reachable} experts "
                f"that topk_group = {router.topk_group} of {router.n_group} groups leave to choose from"
            )
        return self


FeedForward = DenseFeedForward | MoeFeedForward


class MultiTokenPrediction(Section):
    """Extra layers that predict further tokens (DeepSeek-V3, section 2.2)."""

    num_layers: Count = 1
    loss_weight: NotNegative = 0.3
    """Weight (lambda) of the mean over depths of their losses."""


class ModelConfig(Section):
    """A decoder: its sizes and its choices."""

    family: Literal["deepseek_v3", "llama"]
    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    max_position_embeddings: Count = 4096
    rms_norm_eps: Positive = 1e-6
    tie_word_embeddings: bool = False
    initializer_range: Positive = 0.02
    """Standard deviation of every initial weight matrix; norms start at 1, biases at 0."""
    attention: Annotated[Attention, Field(discriminator="kind")]
    feed_forward: Annotated[FeedForward, Field(discriminator="kind")]
    multi_token_prediction: MultiTokenPrediction | None = None

    @model_validator(mode="before")
    @classmethod
    def _derive_heads(cls, values: Any) -> Any:
        """Fill in what follows from other sizes: key/value heads, and the width of a head."""
        attention = values.get("attention") if isinstance(values, dict) else None
        if not isinstance(attention, dict) or attention.get("kind") != "gqa":
            return values
        heads, hidden = attention.get("num_attention_heads"), values.get("hidden_size")
        derived = dict(attention)
        if heads is not None:
            derived.setdefault("num_key_value_heads", heads)
        if isinstance(heads, int) and isinstance(hidden, int) and heads > 0 and hidden % heads == 0:
            derived.setdefault("head_dim", hidden // heads)
        return {**values, "attention": derived}

    def is_moe_layer(self, layer: int) -> bool:
        """Whether decoder layer `layer` (MTP layers are numbered after the last) has experts."""
        return isinstance(self.feed_forward, MoeFeedForward) and layer >= self.feed_forward.first_k_dense_replace
