"""Hugging Face's tensor names for DeepSeek-V2."""

from firstlight.config.model import ModelConfig
from firstlight.models.hub_rows import DENSE, EXPERTS, LATENT, PRE_NORMS, hub_table
from firstlight.models.names import NameTable


def name_table(model: ModelConfig) -> NameTable:
    """The hub's tensor names."""
    return hub_table(model, (*PRE_NORMS, *LATENT, *DENSE, *EXPERTS))
