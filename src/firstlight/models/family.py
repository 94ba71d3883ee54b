"""What a model family must offer, and the table of families."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from firstlight.config.model import ModelConfig
from firstlight.models.decoder import Decoder
from firstlight.models.deepseek_v3.model import DeepseekV3
from firstlight.models.llama.model import Llama
from firstlight.models.names import NameTable


class ModelFamily(Protocol):
    """A family of decoders: choices of the core, and the names that Hugging Face gives them."""

    def build(self, config: ModelConfig) -> Decoder:
        """The module with uninitialised parameters; build it under `torch.device("meta")` to hold nothing."""

    def names(self, config: ModelConfig) -> NameTable:
        """Hugging Face's tensor names."""

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """The content of Hugging Face's config.json, without dtype and token ids."""


FAMILIES: Mapping[str, ModelFamily] = {"deepseek_v3": DeepseekV3(), "llama": Llama()}


def family_of(config: ModelConfig) -> ModelFamily:
    """The family that `config` names."""
    return FAMILIES[config.family]


def units_of(model: nn.Module) -> list[nn.Module]:
    """The parts that are sharded, recomputed or compiled as one: the decoder's layers and its MTP layers."""
    assert isinstance(model, Decoder)
    return [*model.layers, *model.mtp]
