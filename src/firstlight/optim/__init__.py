"""Optimizers and schedules: gradients in, Update out."""
