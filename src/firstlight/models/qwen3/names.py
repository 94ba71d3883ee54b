"""Hugging Face's tensor names for Qwen3."""

from firstlight.config.model import ModelConfig
from firstlight.models.hub_rows import DENSE, GROUPED_QUERY, PRE_NORMS, hub_table
from firstlight.models.names import NameTable


def name_table(model: ModelConfig) -> NameTable:
    """The hub's tensor names."""
    return hub_table(model, (*PRE_NORMS, *GROUPED_QUERY, *DENSE))
