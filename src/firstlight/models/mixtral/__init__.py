"""Mixtral: Llama whose feed-forward is a mixture of experts in every layer."""
