"""Puts the parts together and steps."""
