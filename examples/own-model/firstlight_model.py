"""A model class of one's own: a Llama whose layers weigh what they add to the stream, channel by channel.

`firstlight train run.yaml --register-path examples/own-model` runs this file and trains `MODEL`.
"""

from torch import Tensor

from firstlight.config.model import ModelConfig
from firstlight.models.decoder import Block, Decoder
from firstlight.models.moe import LayerLoad
from firstlight.models.places import Places
from firstlight.models.registered import OwnModel

from .gain import Gain


class WeighedBlock(Block):
    """A decoder layer that multiplies its two updates of the stream by learned gains."""

    def __init__(self, model: ModelConfig, layer: int) -> None:
        super().__init__(model, layer)
        self.attention_gain = Gain(model.hidden_size)
        self.feed_forward_gain = Gain(model.hidden_size)

    def forward(self, hidden_bsd: Tensor, places: Places) -> tuple[Tensor, LayerLoad | None]:
        hidden_bsd = hidden_bsd + self.attention_gain(self.attention(self.attention_norm(hidden_bsd), places))
        return hidden_bsd + self.feed_forward_gain(self.feed_forward(self.feed_forward_norm(hidden_bsd))), None


class WeighedDecoder(Decoder):
    """Every rank of a tensor group has a copy of the gains, for its part of the sequence."""

    block_type = WeighedBlock
    own_cuts = {"attention_gain": "copied", "feed_forward_gain": "copied"}


MODEL = OwnModel(family="llama", decoder=WeighedDecoder, names=("WeighedForCausalLM", "weighed"))
