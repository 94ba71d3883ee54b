"""What each rank holds, for every axis and every choice that saves memory: the tables of docs/parallelism.md.

Bytes are counted, not estimated, each in the rank that holds the most; the peak of the process is the kernel's figure.
A new axis is a new row of ROWS.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.memory_rank import Row  # noqa: E402

TIMEOUT_SECONDS = 1800
STAGES = ("optimizer", "optimizer+gradients", "all")
DEGREES = ("data_parallel_replicate", "data_parallel_shard", "tensor_parallel", "pipeline_parallel", "context_parallel")

ROWS: Mapping[str, Mapping[str, Any]] = {
    "one process": {"data_parallel_shard": 1},
    **{
        f"data_parallel_shard {ranks}, sharded {stage}": {"data_parallel_shard": ranks, "sharded": stage}
        for stage in STAGES
        for ranks in (2, 4, 8)
    },
    **{f"tensor_parallel {ranks}": {"tensor_parallel": ranks, "data_parallel_shard": 1} for ranks in (2, 4)},
    **{
        f"data_parallel_shard 4, expert_parallel {ranks}": {"data_parallel_shard": 4, "expert_parallel": ranks}
        for ranks in (1, 2, 4)
    },
    **{
        f"context_parallel {ranks}, {kind}": {
            "context_parallel": ranks,
            "context": {"kind": kind},
            "data_parallel_shard": 1,
        }
        for kind in ("ring", "all_to_all")
        for ranks in (2, 4)
    },
    **{
        f"pipeline_parallel {ranks}, {schedule}": {
            "pipeline_parallel": ranks,
            "pipeline": {"schedule": schedule},
            "data_parallel_shard": 1,
        }
        for ranks, schedule in ((2, "1f1b"), (4, "1f1b"), (2, "zbv_zero_bubble"))
    },
}
"""Sections `parallelism`, by what a reader calls them."""

RECOMPUTE: Mapping[str, Mapping[str, Any]] = {
    "none": {"kind": "none"},
    "full": {"kind": "full"},
    "full, every second layer": {"kind": "full", "layers": {"every": 2}},
    "modules: attention": {"kind": "modules", "modules": ["attention"]},
    "modules: feed_forward": {"kind": "modules", "modules": ["feed_forward"]},
    "modules: experts, shared_expert": {"kind": "modules", "modules": ["experts", "shared_expert"]},
    "selective": {"kind": "selective"},
    "selective, repeated_in: latent_up_projection": {"kind": "selective", "repeated_in": ["latent_up_projection"]},
    "selective, kept: attention": {"kind": "selective", "kept": ["attention"]},
}
"""Sections `recompute`, on one process."""


Most = dict[str, int]
"""Bytes of each kind in the rank that holds the most of it."""


def size_of(row: Row) -> int:
    """The processes of a row."""
    return math.prod(row.parallelism.get(degree, 1) for degree in DEGREES)


def run(rows: Mapping[str, Row]) -> dict[str, Most]:
    """The figures of all rows; those of a size share one start of its processes, which takes longer than the steps."""
    figures: dict[str, Most] = {}
    for size in sorted({size_of(row) for row in rows.values()}):
        chosen = {name: row for name, row in rows.items() if size_of(row) == size}
        print(f"  {size} process(es): {len(chosen)} row(s)", file=sys.stderr)
        figures |= dict(zip(chosen, run_size(size, list(chosen.values())), strict=True))
    return {name: figures[name] for name in rows}


def run_size(size: int, rows: Sequence[Row]) -> list[Most]:
    """The figures of rows of one size. Raises RuntimeError with the last words of the first rank that fails."""
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    variables |= {"GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "benchmarks" / "memory_rank.py"), folder]
        words = json.dumps([asdict(row) for row in rows])
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(size), words], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for rank in range(size)
        ]
        try:
            said = [process.communicate(timeout=TIMEOUT_SECONDS) for process in ranks]
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        failed = [error.decode()[-2000:] for process, (_, error) in zip(ranks, said, strict=True) if process.returncode]
        if failed:
            raise RuntimeError(failed[0])
        by_rank = [[json.loads(line) for line in out.splitlines() if line.startswith(b"{")] for out, _ in said]
        return [{key: max(rank[key] for rank in ranks) for key in ranks[0]} for ranks in zip(*by_rank, strict=True)]


def table(heads: Mapping[str, str], rows: Mapping[str, Mapping[str, int]], first: str) -> str:
    """Markdown, in units of 10**6 bytes."""
    lines = [f"| {first} | {' | '.join(heads.values())} |", "| --- " * (len(heads) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(megabytes(row[key]) for key in heads)} |" for name, row in rows.items()]
    return "\n".join(lines)


def megabytes(size: int) -> str:
    """With one digit; nothing where nothing was measured."""
    return f"{size / 1e6:.1f}" if size else "-"


def is_meant(name: str, only: Sequence[str] | None) -> bool:
    """Whether a row of this name is asked for."""
    return not only or any(text in name for text in only)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--micro-batch-size", type=int, default=2)
    parser.add_argument("--only", action="append", help="rows whose names contain this; may be given several times")
    flags = parser.parse_args(arguments)
    sizes = {
        "hidden_size": flags.hidden_size,
        "sequence_length": flags.sequence_length,
        "micro_batch_size": flags.micro_batch_size,
    }
    axes = {
        name: Row(parallelism=dict(section), **sizes) for name, section in ROWS.items() if is_meant(name, flags.only)
    }
    heads = {
        "parameters": "parameters",
        "optimizer_state": "optimizer state",
        "gradients": "gradients",
        "between": "between micro-batches",
        "saved": "activations",
        "peak": "peak of a step",
        "resident": "peak of the process",
    }
    print("MB on the rank that holds the most\n")
    print(table(heads, run(axes), "layout"), flush=True)
    kinds = {
        name: Row(recompute=dict(section), **sizes) for name, section in RECOMPUTE.items() if is_meant(name, flags.only)
    }
    print("\nMB on one process\n")
    print(table({"held": "held after forward", "peak": "peak of a step"}, run(kinds), "recompute"))


if __name__ == "__main__":
    main()
