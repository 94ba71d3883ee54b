"""Hugging Face's tensor names for Qwen3-MoE."""

from firstlight.models.hub_rows import DENSE, EXPERTS, GROUPED_QUERY, PRE_NORMS

BLOCK = (*PRE_NORMS, *GROUPED_QUERY, *DENSE, *EXPERTS)
