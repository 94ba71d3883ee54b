"""GLM-4.5 and 4.6: grouped-query attention with DeepSeek-V3's experts and multi-token prediction."""
