"""Qwen3-MoE: Qwen3 with softmax-routed experts and no shared one."""
