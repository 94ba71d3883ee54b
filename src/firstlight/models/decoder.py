"""The decoder: blocks, multi-token prediction, and the sums that the loss is made of.

Shapes: b batch, s sequence, d model width, v vocabulary, m mixture layers (MTP layers included), e experts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from firstlight.config.model import ModelConfig, MoeFeedForward, SwigluActivation
from firstlight.models.attention import build_attention
from firstlight.models.layers import FeedForward, RmsNorm
from firstlight.models.moe import LayerLoad, MixtureOfExperts
from firstlight.models.places import Places, mask_ahead, places_of, shifted
from firstlight.ops.cross_entropy import summed_cross_entropy


class LossSums(NamedTuple):
    """Sums over one micro-batch; the caller divides by counts of the whole global batch.

    `lm`: cross-entropy of the next token, summed over unmasked positions. `mtp`: the same for each prediction depth,
    [depths]. `balance`: the balance loss summed over sequences and mixture layers. `load_me`: tokens per expert.
    """

    lm: Tensor
    mtp: Tensor
    balance: Tensor
    load_me: Tensor


TokenLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Hidden states [b, s, d], head [v, d], labels and mask [b, s] to the summed cross-entropy of what the mask counts."""


def token_loss_here(hidden_bsd: Tensor, weight_vd: Tensor, labels_bs: Tensor, mask_bs: Tensor) -> Tensor:
    """The whole vocabulary is here."""
    return summed_cross_entropy(hidden_bsd.flatten(0, 1), weight_vd, labels_bs.flatten(), mask_bs.flatten())


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
    """Embedding, blocks, final norm, head; and the MTP layers, which share embedding and head."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.config = model
        self.embedding = nn.Embedding(model.vocab_size, model.hidden_size)
        self.layers = nn.ModuleList(Block(model, layer) for layer in range(model.num_hidden_layers))
        self.output_norm = RmsNorm(model.hidden_size, model.rms_norm_eps)
        self.head = nn.Linear(model.hidden_size, model.vocab_size, bias=False)
        self.token_loss: TokenLoss = token_loss_here
        self.tie()
        self.mtp = nn.ModuleList(MtpLayer(model, depth) for depth in range(model.num_mtp_layers))

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
        places = self._places(tokens_bs, begins_bs)
        hidden_bsd, loads = self._trunk(tokens_bs, places)
        lm = self._cross_entropy(hidden_bsd, labels_bs, mask_bs)
        mtp_losses = []
        for depth, layer in enumerate(self.mtp if predicts_ahead else (), start=1):
            # At depth k position i has seen the labels up to i + k - 1: embed the last of them, predict the next.
            hidden_bsd, load = layer(hidden_bsd, self.embedding(labels_bs), places)
            loads.append(load)
            labels_bs = shifted(labels_bs)
            mtp_losses.append(self._cross_entropy(hidden_bsd, labels_bs, mask_ahead(mask_bs, begins_bs, depth)))
        balance, load_me = _join_loads([load for load in loads if load is not None], lm)
        return LossSums(lm, torch.stack(mtp_losses) if mtp_losses else lm.new_zeros(0), balance, load_me)

    def allocate(self, device: torch.device) -> None:
        """Give a module that was built under `torch.device("meta")` memory, uninitialised, on `device`."""
        self.to_empty(device=device)
        # Every module has received memory of its own, also those that share.
        self.tie()

    def logits(self, tokens_bs: Tensor, begins_bs: Tensor | None = None) -> Tensor:
        """Scores of the next token at every position, [b, s, v]."""
        hidden_bsd, _ = self._trunk(tokens_bs, self._places(tokens_bs, begins_bs))
        out: Tensor = self.head(hidden_bsd)
        return out

    def mtp_logits(self, tokens_bs: Tensor) -> list[Tensor]:
        """Scores of the token after the next, and so on for each depth: depth k gives [b, s - k, v]."""
        hidden_bsd, _ = self._trunk(tokens_bs, self._places(tokens_bs))
        out = []
        for depth, layer in enumerate(self.mtp, start=1):
            embedded = self.embedding(tokens_bs[:, depth:])
            length = embedded.shape[1]
            hidden_bsd, _ = layer(hidden_bsd[:, :length], embedded, self._places(tokens_bs[:, :length]))
            out.append(self.head(hidden_bsd))
        return out

    def tie(self) -> None:
        """Make embedding and head one parameter where the configuration says so."""
        if self.config.tie_word_embeddings:
            self.head.weight = self.embedding.weight

    def _places(self, tokens_bs: Tensor, begins_bs: Tensor | None = None) -> Places:
        return places_of(self.config.attention, tokens_bs, begins_bs)

    def _trunk(self, tokens_bs: Tensor, places: Places) -> tuple[Tensor, list[LayerLoad | None]]:
        hidden_bsd = self.embedding(tokens_bs)
        loads: list[LayerLoad | None] = []
        for layer in self.layers:
            hidden_bsd, load = layer(hidden_bsd, places)
            loads.append(load)
        return self.output_norm(hidden_bsd), loads

    def _cross_entropy(self, hidden_bsd: Tensor, labels_bs: Tensor, mask_bs: Tensor) -> Tensor:
        return self.token_loss(hidden_bsd, self.head.weight, labels_bs, mask_bs)


def _join_loads(loads: Sequence[LayerLoad], like: Tensor) -> tuple[Tensor, Tensor]:
    if not loads:
        return like.new_zeros(()), like.new_zeros((0, 0), dtype=torch.int64)
    return torch.stack([load.balance_loss for load in loads]).sum(), torch.stack([load.load_e for load in loads])
