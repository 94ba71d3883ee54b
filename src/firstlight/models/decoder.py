"""The decoder: blocks, multi-token prediction, and the sums that the loss is made of.

Shapes: b batch, s sequence, d model width, v vocabulary, m mixture layers (MTP layers included), e experts.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.config.model import (
    Attention,
    ModelConfig,
    MoeFeedForward,
    MultiHeadLatentAttention,
    SwigluActivation,
)
from firstlight.layout.stages import Stage
from firstlight.models.attention import MultiHeadLatent, build_attention, softmax_scale
from firstlight.models.layers import FeedForward, RmsNorm
from firstlight.models.moe import LayerLoad, MixtureOfExperts
from firstlight.models.places import Inputs, Places, inputs_here, places_of
from firstlight.models.sharding import Cut
from firstlight.ops.cross_entropy import SummedLoss, capped, summed_cross_entropy, summed_cross_entropy_and_z


class LossSums(NamedTuple):
    """Sums over one micro-batch; the caller divides by counts of the whole global batch.

    `lm`: cross-entropy of the next token, summed over unmasked positions. `mtp`: the same for each prediction depth,
    [depths]. `z`: the squared log-sum-exp of the head's logits, summed as `lm` is; for who gives it a weight.
    `balance` and `router_z`: the balance loss and the routers' z-loss, summed over sequences and mixture layers.
    `load_me`: tokens per expert.
    """

    lm: Tensor
    mtp: Tensor
    z: Tensor
    balance: Tensor
    router_z: Tensor
    load_me: Tensor


class TokenSums(NamedTuple):
    """Over the positions that the mask counts: cross-entropy, and squared log-sum-exp of the logits."""

    loss: Tensor
    z: Tensor


class TokenLoss(Protocol):
    """Of hidden states [b, s, d], head [v, d], labels and mask [b, s]."""

    def __call__(self, hidden_bsd: Tensor, weight_vd: Tensor, labels_bs: Tensor, mask_bs: Tensor, /) -> TokenSums: ...

    def scores(self, hidden_bsd: Tensor, weight_vd: Tensor, mask_bs: Tensor, /) -> Tensor:
        """Of the next token at the n positions that the mask counts, [n, v], row by row; in fp32 at least."""


class InputReader(Protocol):
    """What this rank reads of a micro-batch: see `inputs_here`."""

    def __call__(
        self,
        attention: Attention,
        tokens_bs: Tensor,
        labels_bs: Tensor,
        mask_bs: Tensor,
        begins_bs: Tensor | None,
        *,
        depths: int,
    ) -> Inputs: ...


class TokenLossHere:
    """Where the whole vocabulary is here. Logits are kept only when the configuration asks something of them."""

    def __init__(self, model: ModelConfig, summed: SummedLoss = summed_cross_entropy) -> None:
        self._summed = summed
        self._soft_cap = model.logit_soft_cap
        self._needs_logits = model.logit_soft_cap is not None or model.z_loss > 0

    def __call__(self, hidden_bsd: Tensor, weight_vd: Tensor, labels_bs: Tensor, mask_bs: Tensor) -> TokenSums:
        """See TokenLoss."""
        given = hidden_bsd.flatten(0, 1), weight_vd, labels_bs.flatten(), mask_bs.flatten()
        if self._needs_logits:
            return TokenSums(*summed_cross_entropy_and_z(*given, soft_cap=self._soft_cap))
        loss = self._summed(*given)
        return TokenSums(loss, torch.zeros_like(loss))

    def scores(self, hidden_bsd: Tensor, weight_vd: Tensor, mask_bs: Tensor) -> Tensor:
        """See TokenLoss."""
        return capped(F.linear(hidden_bsd[mask_bs != 0], weight_vd), self._soft_cap)


class Block(nn.Module):
    """One decoder layer: attention, then a dense feed-forward or a mixture of experts.

    Both read the normalised stream; in a sandwich, what they add to it is normalised, too.
    """

    def __init__(self, model: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)
        self.attention = build_attention(model, layer)
        self.feed_forward_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)
        self.feed_forward = _build_feed_forward(model, layer)
        self.attention_output_norm: nn.Module = nn.Identity()
        self.feed_forward_output_norm: nn.Module = nn.Identity()
        if model.norms == "sandwich":
            self.attention_output_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)
            self.feed_forward_output_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)

    def forward(self, hidden_bsd: Tensor, places: Places) -> tuple[Tensor, LayerLoad | None]:
        attended_bsd = self.attention(self.attention_norm(hidden_bsd), places)
        hidden_bsd = hidden_bsd + self.attention_output_norm(attended_bsd)
        out = self.feed_forward(self.feed_forward_norm(hidden_bsd))
        update_bsd, load = (out, None) if isinstance(out, Tensor) else out
        return hidden_bsd + self.feed_forward_output_norm(update_bsd), load


def _build_feed_forward(model: ModelConfig, layer: int) -> nn.Module:
    feed_forward = model.feed_forward
    activation = feed_forward.activation if isinstance(feed_forward, MoeFeedForward) else SwigluActivation()
    if isinstance(feed_forward, MoeFeedForward) and model.is_moe_layer(layer):
        return MixtureOfExperts(model.hidden_size, feed_forward)
    assert feed_forward.intermediate_size is not None, "the schema asks for it where a layer is dense"
    return FeedForward(model.hidden_size, feed_forward.intermediate_size, activation)


class MtpLayer(nn.Module):
    """One depth of multi-token prediction (DeepSeek-V3, equations 21 to 23; the embedding comes first, as released)."""

    def __init__(self, model: ModelConfig, depth: int) -> None:
        super().__init__()
        self.embedding_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)
        self.hidden_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)
        self.projection = nn.Linear(2 * model.hidden_size, model.hidden_size, bias=False)
        self.block = Block(model, model.num_hidden_layers + depth)
        self.output_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)

    def forward(self, hidden_bsd: Tensor, embedded_bsd: Tensor, places: Places) -> tuple[Tensor, LayerLoad | None]:
        """`hidden_bsd` of the depth before, and the embedding of the token that it predicted; normalised output."""
        joined = torch.cat((self.embedding_norm(embedded_bsd), self.hidden_norm(hidden_bsd)), dim=-1)
        out_bsd, load = self.block(self.projection(joined), places)
        return self.output_norm(out_bsd), load


class Decoder(nn.Module):
    """Embedding, blocks, final norm, head; and the MTP layers, which share embedding and head.

    A stage of a pipeline has a part of them. Whoever calls it passes on hidden states in the place of tokens.
    A class of a user's own has other blocks, or more in it; see `models/registered.py`.
    """

    block_type: ClassVar[type[Block]] = Block
    """What a layer is."""
    own_cuts: ClassVar[Mapping[str, Cut]] = {}
    """How modules that no family has are cut over a tensor group, by the last part of their names."""

    def __init__(self, model: ModelConfig, stage: Stage | None = None) -> None:
        super().__init__()
        self.config = model
        self.stage = stage or Stage(layers=range(model.num_hidden_layers))
        num_mtp_layers = model.num_mtp_layers if self.stage.is_last else 0
        if self.stage.is_first or (self.stage.is_last and (num_mtp_layers or model.tie_word_embeddings)):
            self.embedding = nn.Embedding(model.vocab_size, model.hidden_size)
        # By their numbers in the whole model.
        self.layers = nn.ModuleDict({str(layer): self.block_type(model, layer) for layer in self.stage.layers})
        if self.stage.is_last:
            self.output_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)
            self.head = nn.Linear(model.hidden_size, model.vocab_size, bias=False)
        self.read_inputs: InputReader = inputs_here
        self.attention = model.attention
        """What positions are rotated by: another one in another phase of a run."""
        self.token_loss: TokenLoss = TokenLossHere(model)
        self.tie()
        self.mtp = nn.ModuleList(MtpLayer(model, depth) for depth in range(num_mtp_layers))

    def forward(
        self,
        tokens_bs: Tensor,
        labels_bs: Tensor,
        mask_bs: Tensor,
        begins_bs: Tensor | None = None,
        *,
        predicts_ahead: bool = True,
    ) -> LossSums:
        """The loss sums of a micro-batch: int64 tokens, the tokens that follow them, and which of these count.

        With `begins_bs`, bool, where documents begin, they do not see each other; `mask_bs` must leave out the
        prediction of their first tokens. Without `predicts_ahead` the MTP layers rest, as an evaluation of the next
        token has no need of them.
        """
        inputs = self.inputs(tokens_bs, labels_bs, mask_bs, begins_bs, predicts_ahead=predicts_ahead)
        hidden_bsd, loads = self.run_layers(self.embedding(inputs.tokens_bs), inputs.places)
        return self.losses(hidden_bsd, loads, inputs)

    def inputs(
        self,
        tokens_bs: Tensor,
        labels_bs: Tensor,
        mask_bs: Tensor,
        begins_bs: Tensor | None = None,
        *,
        predicts_ahead: bool = True,
    ) -> Inputs:
        """What `run_layers` and `losses` read of a micro-batch, see `forward`."""
        depths = self.config.num_mtp_layers if predicts_ahead else 0
        return self.read_inputs(self.attention, tokens_bs, labels_bs, mask_bs, begins_bs, depths=depths)

    def run_layers(self, hidden_bsd: Tensor, places: Places) -> tuple[Tensor, list[LayerLoad]]:
        """The stream after the decoder's layers, before the final norm, and the loads of the mixtures among them."""
        loads: list[LayerLoad | None] = []
        for layer in self.layers.values():
            hidden_bsd, load = layer(hidden_bsd, places)
            loads.append(load)
        return hidden_bsd, [load for load in loads if load is not None]

    def losses(self, hidden_bsd: Tensor, loads: Sequence[LayerLoad], inputs: Inputs) -> LossSums:
        """The loss sums, from the stream after the last decoder layer and the loads so far."""
        hidden_bsd = self.output_norm(hidden_bsd)
        labels, masks = inputs.labels_kbs.unbind(), inputs.masks_kbs.unbind()
        lm, z = self._cross_entropy(hidden_bsd, labels[0], masks[0])
        mtp_losses, loads = [], list(loads)
        for depth, layer in enumerate(self.mtp[: len(labels) - 1], start=1):
            hidden_bsd, load = layer(hidden_bsd, self.embedding(labels[depth - 1]), inputs.places)
            if load is not None:
                loads.append(load)
            mtp_losses.append(self._cross_entropy(hidden_bsd, labels[depth], masks[depth]).loss)
        return LossSums(lm, torch.stack(mtp_losses) if mtp_losses else lm.new_zeros(0), z, *join_loads(loads, lm))

    def attend_as(self, attention: Attention) -> None:
        """Rotate positions, and scale scores, as `attention` does; nothing else of it may differ."""
        self.attention = attention
        for module in self.modules():
            if isinstance(module, MultiHeadLatent) and isinstance(attention, MultiHeadLatentAttention):
                module.scale = softmax_scale(attention)

    def allocate(self, device: torch.device) -> None:
        """Give a module that was built under `torch.device("meta")` memory, uninitialised, on `device`."""
        self.to_empty(device=device)
        # Every module has received memory of its own, also those that share.
        self.tie()

    def logits(self, tokens_bs: Tensor, begins_bs: Tensor | None = None) -> Tensor:
        """Scores of the next token at every position, [b, s, v]."""
        hidden_bsd = self._trunk(tokens_bs, places_of(self.attention, tokens_bs, begins_bs))
        return self._scores(hidden_bsd)

    def mtp_logits(self, tokens_bs: Tensor) -> list[Tensor]:
        """Scores of the token after the next, and so on for each depth: depth k gives [b, s - k, v]."""
        attention = self.attention
        hidden_bsd = self._trunk(tokens_bs, places_of(attention, tokens_bs))
        out = []
        for depth, layer in enumerate(self.mtp, start=1):
            embedded = self.embedding(tokens_bs[:, depth:])
            length = embedded.shape[1]
            hidden_bsd, _ = layer(hidden_bsd[:, :length], embedded, places_of(attention, tokens_bs[:, :length]))
            out.append(self._scores(hidden_bsd))
        return out

    def tie(self) -> None:
        """Make embedding and head one parameter where the configuration says so."""
        if self.config.tie_word_embeddings and self.stage.is_last:
            self.head.weight = self.embedding.weight

    def _trunk(self, tokens_bs: Tensor, places: Places) -> Tensor:
        assert self.read_inputs is inputs_here, "attention takes these for whole rows, not for a rank's positions"
        hidden_bsd: Tensor = self.output_norm(self.run_layers(self.embedding(tokens_bs), places)[0])
        return hidden_bsd

    def _scores(self, hidden_bsd: Tensor) -> Tensor:
        logits_bsv: Tensor = self.head(hidden_bsd)
        cap = self.config.logit_soft_cap
        return logits_bsv if cap is None else capped(logits_bsv, cap)

    def _cross_entropy(self, hidden_bsd: Tensor, labels_bs: Tensor, mask_bs: Tensor) -> TokenSums:
        return self.token_loss(hidden_bsd, self.head.weight, labels_bs, mask_bs)


def join_loads(loads: Sequence[LayerLoad], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The balance losses and the z-losses of a micro-batch summed, and tokens per expert [m, e], on the device of
    `like`."""
    if not loads:
        return like.new_zeros(()), like.new_zeros(()), like.new_zeros((0, 0), dtype=torch.int64)
    balance, z, load_me = (torch.stack(parts) for parts in zip(*loads, strict=True))
    return balance.sum(), z.sum(), load_me
