"""Global batch to micro-batches."""


def accumulation_steps(*, global_batch_size: int, micro_batch_size: int, data_size: int) -> int:
    """Micro-batches that each data-parallel rank walks in one step: those of the rank that has most."""
    slices = -(-global_batch_size // micro_batch_size)
    return -(-slices // data_size)
