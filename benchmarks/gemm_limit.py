"""How fast torch multiplies fp32 matrices on this machine: the limit that training is held against. Prints JSON."""

import argparse
import json
import statistics
import time

import torch

SHAPES = ((2048, 2048, 2048), (4096, 4096, 1024), (4096, 384, 1024))
"""Rows, columns and inner size: a large square one, and two of the sizes of small models."""


def gigaflops(shape: tuple[int, int, int], seconds: float) -> list[float]:
    """Of single products of this shape, for so long."""
    rows, columns, inner = shape
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    out = torch.empty(rows, columns)
    for _ in range(3):
        torch.mm(left, right, out=out)
    found, ends = [], time.perf_counter() + seconds
    while time.perf_counter() < ends:
        begin = time.perf_counter()
        torch.mm(left, right, out=out)
        found.append(2 * rows * columns * inner / (time.perf_counter() - begin) / 1e9)
    return found


def main() -> None:
    """Measure each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.7, help="for each shape")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    measured = {"x".join(map(str, shape)): gigaflops(shape, wanted.seconds) for shape in SHAPES}
    print(json.dumps({name: statistics.median(found) for name, found in measured.items()}))


if __name__ == "__main__":
    main()
