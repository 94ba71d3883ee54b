"""The device of this process, and what torch can do on it. The only file that knows kinds of devices by name."""

import json
import resource
import sys
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist

from firstlight.base.errors import InputError
from firstlight.config.recompute import OffloadConfig
from firstlight.ops.block_kernels import BlockKernel, CpuKernel, CudaKernel, DefinitionKernel

_FUSED_ADAMW = ("cpu", "cuda", "mps", "xpu")
_CUDA_WITH_TILES = (12, 9)
_HOPPER = (9, 0)
_PROBE_SIZE = 1024
_PROBE_REPEATS = 8


def pick_device(local_rank: int, *, local_size: int) -> torch.device:
    """The accelerator of this local rank where the machine has any, else the CPU.

    Raises InputError when there are accelerators but fewer than ranks on this node.
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if local_size > count:
        raise InputError(
            f"{local_size} processes on this node, but it has {count} accelerators; use --nproc-per-node {count}"
        )
    torch.accelerator.set_device_index(local_rank)
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None, "is_available said so"
    return torch.device(accelerator.type, local_rank)


def backend_for(device: torch.device) -> str:
    """The process-group backend of the device: gloo, NCCL, HCCL ..."""
    return dist.get_default_backend_for_device(device)


def has_fused_adamw(device: torch.device) -> bool:
    """Whether torch updates all parameters in one kernel there."""
    return device.type in _FUSED_ADAMW


def has_scaled_product(device: torch.device) -> bool:
    """Whether torch has the product of 8-bit numbers with scales per tile there: cuBLAS 12.9 has it on Hopper."""
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    major, minor = (int(part) for part in torch.version.cuda.split(".")[:2])
    return (major, minor) >= _CUDA_WITH_TILES and torch.cuda.get_device_capability(device) == _HOPPER


def gradient_sum_dtype(device: torch.device) -> torch.dtype:
    """The type in which gradients are summed over micro-batches and ranks.

    fp64 on CPU, where it costs one or two percent of a step: the order of a sum then no longer shows in its fp32
    result, and every layout trains alike. Accelerators, where fp64 is slow and doubles the traffic, use fp32.
    """
    return torch.float64 if device.type == "cpu" else torch.float32


def require_memory_apart(device: torch.device, offload: OffloadConfig) -> None:
    """Raise InputError when something is to wait in host memory and the device has no other."""
    moved = {
        "offload.activations": (offload.activations is not None, "null"),
        "offload.optimizer_state": (offload.optimizer_state == "host", "device"),
    }
    for key, (is_moved, instead) in moved.items():
        if is_moved and device.type == "cpu":
            raise InputError(f"{key} moves to host memory, and this run's device, the CPU, has no other; use {instead}")


def block_kernel(query: torch.Tensor, value: torch.Tensor) -> BlockKernel:
    """What computes attention in blocks of tensors of this kind; queries and values [b, h, s, width]."""
    if query.device.type == "cpu":
        return CpuKernel()
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    is_narrow = max(query.shape[-1], value.shape[-1]) <= CudaKernel.max_width
    return CudaKernel() if query.device.type == "cuda" and is_half and is_narrow else DefinitionKernel()


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: by the accelerator's allocator, or by this process on CPU."""
    if device.type == "cpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return torch.accelerator.max_memory_allocated(device)


def measure_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of square matrix products on this device now: the 100 % of the MFU figure when none is configured.

    Takes the best of a few products, 0.1 to 0.3 s on a laptop's CPU.
    """
    a = torch.randn(_PROBE_SIZE, _PROBE_SIZE, device=device, dtype=dtype)
    best = min(_seconds_of_product(a) for _ in range(_PROBE_REPEATS))
    return float(2 * _PROBE_SIZE**3 / best)


Mark = float | torch.Event
"""A moment in a device's work."""


def mark(device: torch.device) -> Mark:
    """The moment at which the device is done with what it has been given so far; on CPU, now. Waits for nothing."""
    if device.type == "cpu":
        return perf_counter()
    event = torch.Event(device=device, enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Mark, end: Mark) -> float:
    """Seconds from one moment to another; waits until the device has come to the second."""
    if isinstance(begin, torch.Event) and isinstance(end, torch.Event):
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000
    assert isinstance(begin, float)
    assert isinstance(end, float), "both marks are of one device"
    return end - begin


def device_health(device: torch.device) -> dict[str, float]:
    """Temperature, clock, power and load, as far as torch tells them: `celsius`, `megahertz`, `watts`, `load` (0 to 1).

    Empty on CPU, and where the vendor's library for it is not installed.
    """
    if device.type != "cuda":
        return {}
    try:
        return {
            "celsius": float(torch.cuda.temperature(device)),
            "megahertz": float(torch.cuda.clock_rate(device)),
            "watts": torch.cuda.power_draw(device) / 1000,
            "load": torch.cuda.utilization(device) / 100,
        }
    except (ModuleNotFoundError, RuntimeError):
        return {}


def snapshot_memory(device: torch.device, path: Path) -> bool:
    """Write the blocks that the device's allocator holds now to `path` as JSON; False where there is no such list."""
    if device.type != "cuda":
        return False
    path.write_text(json.dumps(torch.cuda.memory_snapshot()), encoding="utf-8")
    return True


def _seconds_of_product(a: torch.Tensor) -> float:
    begin = _now(a.device)
    torch.mm(a, a)
    return _now(a.device) - begin


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return perf_counter()
