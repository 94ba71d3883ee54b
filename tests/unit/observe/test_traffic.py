"""Exposed communication: data is under way, and the device computes nothing."""

from dataclasses import dataclass

import pytest

from firstlight.observe.traffic import exposed_seconds, joined, without


@dataclass(frozen=True)
class Noted:
    """As the profiler notes it; milliseconds."""

    what: str
    kind: str
    begin: int
    end: int

    def name(self) -> str:
        return self.what

    def activity_type(self) -> str:
        return self.kind

    def start_ns(self) -> int:
        return self.begin * 1_000_000

    def duration_ns(self) -> int:
        return (self.end - self.begin) * 1_000_000


def test_spans_are_taken_out_of_spans() -> None:
    assert joined([(5, 7), (0, 2), (1, 3), (7, 8)]) == [(0, 3), (5, 8)]
    assert without([(0, 10), (20, 30)], [(2, 4), (8, 22), (29, 40)]) == [(0, 2), (4, 8), (22, 29)]
    assert without([(0, 10)], []) == [(0, 10)]
    assert without([(3, 4)], [(0, 10)]) == []


def test_kernels_hide_what_moves_beside_them_on_whatever_stream() -> None:
    noted = [
        Noted("ncclDevKernel_AllGather_RING_LL", "kernel", 0, 10),
        Noted("gemm", "kernel", 4, 8),
        Noted("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "kernel", 8, 14),
        Noted("Memcpy DtoD", "gpu_memcpy", 12, 13),
        Noted("gemm", "kernel", 14, 30),
        Noted("nccl:_all_gather_base", "gpu_user_annotation", 0, 10),
        Noted("firstlight: forward_backward", "gpu_user_annotation", 0, 40),
        Noted("aten::mm", "cpu_op", 0, 40),
    ]
    assert exposed_seconds(noted) == pytest.approx((4 + 4 + 1) / 1000)


def test_operations_hide_what_gloo_moves_unless_they_wait_themselves() -> None:
    noted = [
        Noted("gloo:all_gather", "user_annotation", 0, 10),
        Noted("autograd::engine::evaluate_function: AddmmBackward0", "cpu_op", 0, 60),
        Noted("aten::mm", "cpu_op", 2, 8),
        Noted("gloo:all_reduce", "user_annotation", 20, 30),
        Noted("aten::add", "cpu_op", 18, 32),
        Noted("_c10d_functional::wait_tensor", "cpu_op", 24, 30),
        Noted("aten::mm", "cpu_op", 40, 50),
    ]
    assert exposed_seconds(noted) == pytest.approx((2 + 2 + 6) / 1000)
    assert exposed_seconds([]) == 0
