"""What a device has: the kernel for blocks of attention."""

import torch

from firstlight.ops.block_kernels import CpuKernel, CudaKernel, DefinitionKernel
from firstlight.parallel.device import block_kernel


def test_kernels_by_device_and_type() -> None:
    def kernel(device: str, dtype: torch.dtype, width: int = 64) -> type:
        # Nothing is computed on the device: the choice reads shape, type and device alone.
        with torch._subclasses.FakeTensorMode():
            return type(block_kernel(*(torch.empty(1, 1, 4, width, device=device, dtype=dtype) for _ in range(2))))

    assert kernel("cpu", torch.float64) is kernel("cpu", torch.bfloat16) is CpuKernel
    assert kernel("cuda", torch.bfloat16) is kernel("cuda", torch.float16, 256) is CudaKernel
    assert kernel("cuda", torch.float32) is kernel("cuda", torch.bfloat16, 264) is DefinitionKernel
    assert kernel("xpu", torch.bfloat16) is DefinitionKernel
