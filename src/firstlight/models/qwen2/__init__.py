"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""
