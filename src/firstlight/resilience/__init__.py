"""Decides whether a run goes on. No torch."""
