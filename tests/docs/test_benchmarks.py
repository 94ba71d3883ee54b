"""The benchmarks run, at sizes that measure nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from firstlight.data.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
TEXT = "Of all the words there are, some are said again and again.\n" * 40


@pytest.mark.slow
def test_the_data_path_is_measured(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    train_tokenizer([TEXT], 300).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "files").mkdir()
    words = {
        "--documents": "1000",
        "--index-sequence-length": "64",
        "--sequence-length": "32",
        "--batch-size": "4",
        "--batches": "3",
        "--checked": "2",
        "--mean-length": "20",
        "--text": str(tmp_path / "text.txt"),
        "--tokenizer": str(tmp_path / "tokenizer.json"),
        "--folder": str(tmp_path / "files"),
    }
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "bench_data.py"),
            *(word for pair in words.items() for word in pair),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "FIRSTLIGHT_MEGATRON_PYTHON"},
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    lines = done.stdout.splitlines()
    for name in ("order: megatron", "order: permuted", "TokenStream", "tokenizers alone", "firstlight prepare"):
        assert any(line.strip().startswith(name) and "left out" not in line for line in lines), done.stdout
    # Two starts and one reading of megatron-core, and its way of preparing: all say why they are not there.
    assert done.stdout.count("left out: FIRSTLIGHT_MEGATRON_PYTHON is not set") == 4
    assert not list((tmp_path / "files").iterdir())


@pytest.mark.slow
def test_memory_is_measured() -> None:
    words = ["--hidden-size", "64", "--sequence-length", "16", "--micro-batch-size", "1"]
    words += ["--only", "data_parallel_shard 2, sharded all", "--only", "kept: attention"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bench_memory.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == [
        *("| layout", "| ---", "| data_parallel_shard 2, sharded all"),
        *("| recompute", "| ---", "| selective, kept: attention"),
    ]
    assert all(float(figure.strip(" |")) > 0 for row in (rows[2], rows[5]) for figure in row[1:])


def test_checkpoints_are_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "bench_checkpoint.py"),
            *("--folder", str(tmp_path), "--parameters", "20000", "--rounds", "1"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("disk", "firstlight", "torch.save", "dcp.save", "dcp.async_save", "firstlight, not hashed"):
        assert any(line.strip().startswith(name) and "GB/s" in line for line in done.stdout.splitlines()), done.stdout
    assert "% of dcp.save" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_monitoring_is_measured() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bench_observe.py"), "--rounds", "1", "--steps", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["monitoring", "off", "default", "everything"]
    assert all(float(line[1]) > 0 for line in lines[1:])
