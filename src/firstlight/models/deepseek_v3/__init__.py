"""DeepSeek-V3: latent attention, sigmoid-routed experts, multi-token prediction."""
