"""Durable, verifiable, reshardable state."""
