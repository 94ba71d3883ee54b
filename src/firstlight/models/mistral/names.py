"""Hugging Face's tensor names for Mistral."""

from firstlight.models.hub_rows import DENSE, GROUPED_QUERY, PRE_NORMS

BLOCK = (*PRE_NORMS, *GROUPED_QUERY, *DENSE)
