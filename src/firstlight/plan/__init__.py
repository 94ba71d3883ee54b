"""Predicts memory, time and cost of a run before any device is held. No torch."""
