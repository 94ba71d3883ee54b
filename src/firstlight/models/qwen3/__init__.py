"""Qwen3: every query and key head is normalised before it is rotated."""
