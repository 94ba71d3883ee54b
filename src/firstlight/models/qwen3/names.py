"""Hugging Face's tensor names for Qwen3."""

from firstlight.models.hub_rows import DENSE, GROUPED_QUERY, PRE_NORMS

BLOCK = (*PRE_NORMS, *GROUPED_QUERY, *DENSE)
