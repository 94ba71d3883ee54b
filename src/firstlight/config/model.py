"""The model section. Names are Hugging Face's; choices are tagged types, never flags."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from firstlight.config.families import FamilyName
from firstlight.config.rope import HeadRope, Rope
from firstlight.config.router import Router
from firstlight.config.schedule import Scheduled
from firstlight.config.section import AbsolutePath, Count, NotNegative, Positive, Section


class SlidingWindow(Section):
    """Layers whose queries see only the positions next to them."""

    kind: Literal["sliding"] = "sliding"
    size: Count
    """How many positions a query sees, its own included."""
    first_layer: Annotated[int, Field(ge=0)] = 0
    """The layers before this one see everything."""
    full_every: Annotated[int, Field(ge=2)] | None = None
    """Every n-th layer sees everything, the others slide; null: all slide."""

    def slides(self, layer: int) -> bool:
        """Whether decoder layer `layer` has the window."""
        is_full = self.full_every is not None and (layer + 1) % self.full_every == 0
        return layer >= self.first_layer and not is_full


class GroupedQueryAttention(Section):
    """Softmax attention whose query heads share key/value heads in groups."""

    kind: Literal["gqa"] = "gqa"
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    rope: HeadRope = HeadRope()
    bias: Literal["none", "qkv", "all"] = "none"
    """Which projections have a bias: none, those of queries, keys and values, or these and the output."""
    qk_norm: Literal["none", "per_head"] = "none"
    """Whether each query and key head is normalised before it is rotated."""
    has_sinks: bool = False
    """Whether each head has a learned logit that takes part in the softmax and has no value (gpt-oss)."""
    window: SlidingWindow | None = None

    @model_validator(mode="after")
    def _heads_group(self) -> "GroupedQueryAttention":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads = {self.num_key_value_heads} does not divide "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} is odd; rotary embedding rotates pairs")
        rotated = self.head_dim * self.rope.partial_rotary_factor
        if rotated % 2:
            raise ValueError(
                f"rope.partial_rotary_factor = {self.rope.partial_rotary_factor} of head_dim = {self.head_dim} are "
                f"{rotated:g} channels; rotary embedding rotates pairs"
            )
        return self

    @property
    def rotary_width(self) -> int:
        """How many channels of a head rotate."""
        return int(self.head_dim * self.rope.partial_rotary_factor)

    @property
    def score_widths(self) -> int:
        """Width of a query or key head and width of a value head, added."""
        return 2 * self.head_dim

    def window_of(self, layer: int) -> int | None:
        """How many positions a query of decoder layer `layer` sees; None: all before it."""
        return self.window.size if self.window is not None and self.window.slides(layer) else None


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

    @property
    def rotary_width(self) -> int:
        """How many channels of a head rotate."""
        return self.qk_rope_head_dim

    @property
    def score_widths(self) -> int:
        """Width of a query or key head and width of a value head, added."""
        return self.qk_head_dim + self.v_head_dim

    def window_of(self, layer: int) -> int | None:  # noqa: ARG002  # as grouped-query attention asks it
        """Latent attention sees every position in every layer."""
        return None


Attention = GroupedQueryAttention | MultiHeadLatentAttention


class DenseFeedForward(Section):
    """SwiGLU of width `intermediate_size` in every layer."""

    kind: Literal["dense"] = "dense"
    intermediate_size: Count


class SwigluActivation(Section):
    """silu(gate) * up (arXiv:2002.05202)."""

    kind: Literal["swiglu"] = "swiglu"


class ClampedSwigluActivation(Section):
    """gate * sigmoid(alpha * gate) * (up + 1), with gate at most `limit` and up within +-`limit` (gpt-oss)."""

    kind: Literal["clamped_swiglu"] = "clamped_swiglu"
    alpha: Positive = 1.702
    limit: Positive = 7.0


Activation = SwigluActivation | ClampedSwigluActivation


class MoeFeedForward(Section):
    """The first layers dense, the others a mixture of experts with shared experts beside them."""

    kind: Literal["moe"] = "moe"
    first_k_dense_replace: Annotated[int, Field(ge=0)] = 0
    intermediate_size: Count | None = None
    """Width of the dense layers; needed when there are any."""
    moe_intermediate_size: Count
    n_routed_experts: Count
    n_shared_experts: Annotated[int, Field(ge=0)] = 1
    has_expert_bias: bool = False
    """Whether the routed experts' projections have biases."""
    activation: Annotated[Activation, Field(discriminator="kind")] = SwigluActivation()
    """What routed experts, shared experts and dense layers apply between their projections."""
    router: Router

    @model_validator(mode="after")
    def _router_fits(self) -> "MoeFeedForward":
        router = self.router
        if self.first_k_dense_replace and self.intermediate_size is None:
            raise ValueError(
                f"first_k_dense_replace = {self.first_k_dense_replace} needs intermediate_size, the dense layers' width"
            )
        reachable = router.reachable_experts(self.n_routed_experts)
        if router.num_experts_per_tok > reachable:
            raise ValueError(
                f"router.num_experts_per_tok = {router.num_experts_per_tok} is more than the {reachable} experts "
                "that it can choose from"
            )
        return self


FeedForward = DenseFeedForward | MoeFeedForward


class MultiTokenPrediction(Section):
    """Extra layers that predict further tokens (DeepSeek-V3, section 2.2)."""

    num_layers: Count = 1
    loss_weight: Scheduled = 0.3
    """Weight (lambda) of the mean over depths of their losses."""


class ModelConfig(Section):
    """A decoder: its sizes and its choices."""

    family: FamilyName
    from_hf: AbsolutePath | None = None
    """A Hugging Face folder whose config.json fills in this section, and with whose weights a new run starts."""
    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    max_position_embeddings: Count = 4096
    rms_norm_eps: Positive = 1e-6
    norms: Literal["pre", "sandwich"] = "pre"
    """Where a layer normalises: what attention and feed-forward read, or also what they add (GLM-4)."""
    tie_word_embeddings: bool = False
    logit_soft_cap: Positive | None = None
    """The head's logits x become cap tanh(x / cap). No format of weights has a place for it; null: they stay."""
    z_loss: NotNegative = 0.0
    """Weight of the mean squared log-sum-exp of the head's logits for the next token (PaLM, arXiv:2204.02311)."""
    initializer_range: Positive = 0.02
    """Standard deviation of every initial weight matrix; norms start at 1, biases and sinks at 0."""
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

    @property
    def num_mtp_layers(self) -> int:
        """How many layers of multi-token prediction there are; they are numbered after the decoder's last."""
        return self.multi_token_prediction.num_layers if self.multi_token_prediction else 0

    def is_moe_layer(self, layer: int) -> bool:
        """Whether decoder layer `layer` (MTP layers are numbered after the last) has experts."""
        return isinstance(self.feed_forward, MoeFeedForward) and layer >= self.feed_forward.first_k_dense_replace
