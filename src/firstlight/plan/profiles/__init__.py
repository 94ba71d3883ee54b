"""Profiles of hardware: data files."""
