"""Hugging Face's tensor names for DeepSeek-V2."""

from firstlight.models.hub_rows import DENSE, EXPERTS, LATENT, PRE_NORMS

BLOCK = (*PRE_NORMS, *LATENT, *DENSE, *EXPERTS)
