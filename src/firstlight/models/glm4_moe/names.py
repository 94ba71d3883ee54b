"""Hugging Face's tensor names for GLM-4.5."""

from firstlight.models.hub_rows import DENSE, EXPERTS, GROUPED_QUERY, PRE_NORMS

BLOCK = (*PRE_NORMS, *GROUPED_QUERY, *DENSE, *EXPERTS)
