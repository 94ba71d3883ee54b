"""Hugging Face's tensor names for GLM-4.5."""

from firstlight.config.model import ModelConfig
from firstlight.models.hub_rows import DENSE, EXPERTS, GROUPED_QUERY, PRE_NORMS, hub_table
from firstlight.models.names import NameTable


def name_table(model: ModelConfig) -> NameTable:
    """The hub's tensor names."""
    return hub_table(model, (*PRE_NORMS, *GROUPED_QUERY, *DENSE, *EXPERTS))
