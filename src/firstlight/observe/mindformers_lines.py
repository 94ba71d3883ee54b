"""Step lines as MindFormers logs them, for what reads its logs.

Source: the training callbacks of MindSpore Transformers 1.8 (graph mode) and 2.0 (PyNative mode).
"""

import datetime
from dataclasses import dataclass

from firstlight.observe.record import LOSS_PREFIX, Record, parts_of

_BAR_WIDTH = 50


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """What the lines say of the run as a whole."""

    total_steps: int
    global_batch_size: int
    num_devices: int
    flops_per_token: float


def graph_mode_lines(record: Record, size: RunSize) -> list[str]:
    """Two lines, as of graph mode with data sink: the step with its figures, and the progress.

    A run is one epoch. There is no loss scale, and an overflow is a norm that is not finite; times are those of a
    step, throughput is model TFLOP/s of a device.
    """
    step = int(record["step"])
    milliseconds = 1000 * record.get("step_seconds", 0.0)
    is_overflow = record.get("skipped_steps", 0.0) > 0
    first = (
        f"{{ Epoch:[{1:3d}/{1:3d}], step:[{step:5d}/{size.total_steps:5d}], loss: {record['loss']:5.6f}, "
        f"{_graph_mode_losses(record)}per_step_time: {int(milliseconds)}ms, lr: {record['learning_rate']:.8g}, "
        f"overflow cond: {is_overflow}, loss_scale: 1.0, global_norm: [{record['grad_norm']:.8g}], "
        f"train_throughput_per_npu: {_teraflops(record, size):.3f}T"
    )
    share = step / size.total_steps
    bar = "█" * int(_BAR_WIDTH * share)
    per_device = size.global_batch_size / size.num_devices * 1000 / milliseconds if milliseconds else 0.0
    left = datetime.timedelta(seconds=int(record.get("eta_seconds", 0.0)))
    return [first, f"  {100 * share:4.1f}% |{bar:<{_BAR_WIDTH}}| {per_device:.5f} samples/s/p  {left} }}"]


def pynative_line(record: Record, size: RunSize) -> str:
    """The line of PyNative mode; its norm and loss are the true ones on every stage."""
    losses = parts_of(record, LOSS_PREFIX)
    extra = f"load_balancing_loss: {losses['balance']:10.6f}, " if "balance" in losses else ""
    extra += f"mtp_1_loss: {losses['mtp']:10.6f}, " if "mtp" in losses else ""
    return (
        f"{{ step:[{int(record['step']):5d}/{size.total_steps:5d}], consumed_samples: {int(record['samples'])}, "
        f"global_batch_size: {size.global_batch_size}, loss: {record['loss']:10.6f}, "
        f"per_step_time: {int(1000 * record.get('step_seconds', 0.0)):6d}ms, {extra}"
        f"lr: {record['learning_rate']:.6e}, grad_norm: {record['grad_norm']:10.6f}, "
        f"throughput: {_teraflops(record, size):.2f}T }}"
    )


def _graph_mode_losses(record: Record) -> str:
    losses = parts_of(record, LOSS_PREFIX)
    if len(losses) < 2:
        return ""
    names = {"lm": "lm_loss", "balance": "load_balancing_loss", "mtp": "mtp_loss"}
    return "".join(f"{name}: {losses[part]:.6f}, " for part, name in names.items() if part in losses)


def _teraflops(record: Record, size: RunSize) -> float:
    return record.get("tokens_per_second", 0.0) * size.flops_per_token / size.num_devices / 1e12
