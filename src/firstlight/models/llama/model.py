"""The Llama family (arXiv:2407.21783)."""

from typing import Any

from firstlight.config.model import ModelConfig
from firstlight.models.decoder import Decoder
from firstlight.models.llama.names import config_json, name_table
from firstlight.models.names import NameTable


class Llama:
    """Grouped-query attention and dense SwiGLU in every layer."""

    def build(self, config: ModelConfig) -> Decoder:
        return Decoder(config)

    def names(self, config: ModelConfig) -> NameTable:
        return name_table(config)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        return config_json(config)
