"""Measures and shows a run; never decides."""
