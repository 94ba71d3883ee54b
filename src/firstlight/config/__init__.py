"""The typed description of a run: schema, loading with origins, cross-section rules. No torch."""
