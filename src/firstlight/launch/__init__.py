"""Outside the training process: starts ranks and reports how they ended."""
