"""Llama: grouped-query attention and dense SwiGLU."""
