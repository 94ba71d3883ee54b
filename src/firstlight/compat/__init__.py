"""Foreign configuration in: YAML files of MindSpore Transformers (MindFormers), by a table of rows."""
