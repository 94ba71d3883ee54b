"""Applies a layout to a model from outside it."""
