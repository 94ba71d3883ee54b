"""The DeepSeek-V3 family (arXiv:2412.19437)."""

from typing import Any

from firstlight.config.model import ModelConfig
from firstlight.models.decoder import Decoder
from firstlight.models.deepseek_v3.names import config_json, name_table
from firstlight.models.names import NameTable


class DeepseekV3:
    """Latent attention; dense layers, then sigmoid-routed experts; multi-token prediction."""

    def build(self, config: ModelConfig) -> Decoder:
        return Decoder(config)

    def names(self, config: ModelConfig) -> NameTable:
        return name_table(config)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        return config_json(config)
