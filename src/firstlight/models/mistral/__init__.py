"""Mistral: Llama whose layers may see a window only."""
