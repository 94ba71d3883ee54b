"""Single operations of the model, device-neutral. No ranks."""
