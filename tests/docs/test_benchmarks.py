"""The benchmarks run, at sizes that measure nothing."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_growth, bench_largest, bench_start, peers_venv
from benchmarks.machine import ForeignLoad, busy_seconds, tree_seconds
from benchmarks.train_cases import CASES
from benchmarks.train_record import Limit, Trained, append, read
from benchmarks.train_table import lines
from firstlight.data.tokenizer import train_tokenizer
from scripts import write_benchmarks

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


def trained(program: str, seconds: list[float], **more: Any) -> Trained:
    """A record of the dense model."""
    case = CASES["dense"]
    usual = {
        "settings": "its own" if program == "firstlight" else "as found",
        "round": 0,
        "parameters": case.parameters,
        "losses": [9.02] * len(seconds),
        "foreign": [0.0] * len(seconds),
    }
    return Trained(
        program=program,
        case="dense",
        threads=2,
        tokens_per_step=case.tokens_per_step,
        flops_per_token=case.flops_per_token,
        seconds=seconds,
        **{**usual, **more},
    )


LIMIT = Limit(round=0, threads=2, gigaflops={"one": 200.0, "other": 100.0}, foreign_share=0.0)


def test_programs_are_held_against_the_fastest_peer_and_the_limit() -> None:
    assert CASES["dense"].parameters == 25_172_352
    assert CASES["moe"].parameters == 14_246_080
    assert round(CASES["dense"].flops_per_token / 1e6, 1) == 141.6
    records = [
        LIMIT,
        trained("firstlight", [90, 90, 4.0, 4.0, 2.0]),
        trained("transformers", [90, 90, 8.0, 8.0, 4.0]),
        trained("litgpt", [90, 90, 5.0, 5.0, 5.0]),
        # The slow step is others' doing, and does not count while two are left.
        trained("transformers", [90, 90, 6.0, 6.0, 60.0], settings="allocator", foreign=[0, 0, 0, 0, 0.5]),
    ]
    told = lines(records, CASES["dense"])
    gigaflops = 4096 / 4.0 * CASES["dense"].flops_per_token / 1e9
    assert f"| firstlight | its own | 1024 | 1024 to 1024 | 2048 | {gigaflops:.1f} | {gigaflops / 150:.1%} " in told[2]
    assert "- 1.25 times the fastest peer as found, litgpt (by rounds 1.25 to 1.25); by fastest steps 2.00" in told[-2]
    assert "- 1.50 times the fastest peer with the allocator's settings, transformers" in told[-1]


def test_a_comparison_of_unequal_things_is_called_out() -> None:
    records = [
        LIMIT,
        trained("firstlight", [1.0] * 4),
        trained("litgpt", [1.0] * 4, parameters=24_000_000),
        trained("megatron", [1.0] * 4, losses=[7.5] * 4),
        trained("trainer", [], error="exit code 1: out of memory"),
    ]
    faults = [line for line in lines(records, CASES["dense"]) if "CHECK FAILED" in line]
    assert [fault.split()[3] for fault in faults] == ["litgpt", "megatron", "trainer,"]
    assert "24,000,000 parameters, not 25,172,352" in faults[0]
    assert "not near ln(vocabulary) = 9.011" in faults[1]
    assert "out of memory" in faults[2]


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    record = trained("firstlight", [1.0, 2.0])
    for one in (record, LIMIT):
        append(tmp_path / "records.jsonl", one)
    assert read(tmp_path / "records.jsonl", Trained, Limit) == [record, LIMIT]
    assert read(tmp_path / "records.jsonl", Limit) == [LIMIT]


def test_the_largest_model_is_the_last_that_fits() -> None:
    measured = []

    def measure(width: int) -> int:
        measured.append(width)
        return 300_000_000 + 3400 * width**2 + 10_000 * width

    width = bench_largest.search(measure, 8_000_000_000)
    assert width is not None
    assert measure(width) <= 8_000_000_000 < measure(width + 64)
    assert len(set(measured)) <= 5
    assert bench_largest.search(lambda _: 9_000_000_000, 8_000_000_000) is None
    assert bench_largest.search(lambda width: None if width > 768 else width**2, 8_000_000_000) == 768


def test_growth_is_held_to_its_aim() -> None:
    def run(layers: int, seconds: float) -> Trained:
        one = trained("firstlight", [seconds] * 4)
        flops = CASES["dense"].flops_per_token * layers / 8
        return replace(one, case=f"dense layers={layers}", flops_per_token=flops)

    told = bench_growth.lines([run(2, 1.0), run(4, 2.0), run(8, 5.0)], "dense layers")
    assert [row.split(" | ")[5] for row in told[2:5]] == ["", "1.00", "1.32"]
    assert told[-1].startswith("- GFLOP/s within 11.1% of")
    assert {case.name.partition("=")[0] for case in bench_growth.cases(bench_growth.FAMILIES)} == {
        *bench_growth.FAMILIES
    }


def test_a_peer_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert set(peers_venv.missing(tmp_path)) == {"transformers", "trainer", "litgpt", "megatron"}
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    missing = peers_venv.missing(tmp_path)
    assert "transformers" not in missing
    assert missing["litgpt"] == f"litgpt is not installed in {tmp_path}"


def test_what_a_process_and_its_children_took_is_told_apart_from_others() -> None:
    busy, own = busy_seconds(), tree_seconds(os.getpid())
    burn = "import time\nends = time.process_time() + 0.3\nwhile time.process_time() < ends: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    own = tree_seconds(os.getpid()) - own
    assert own > 0.25
    assert busy_seconds() - busy > own - 0.1
    with ForeignLoad(os.getpid()) as load:
        begin = time.time()
        time.sleep(0.3)
    assert 0 <= load.share(begin, begin + 0.3) <= 1
    assert load.share(begin, begin) == 0


def test_the_page_is_what_the_records_say() -> None:
    results = ROOT / "benchmarks" / "results"
    assert write_benchmarks.PAGE.read_text() == write_benchmarks.page(results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("train", ["--only", "firstlight,litgpt", "--model", "moe", "--rounds", "1", "--steps", "3"], "| firstlight |"),
        ("growth", ["--only", "16 tokens, mixture layers", "--steps", "2"], "ms for each layer"),
        ("start", ["--rounds", "1"], "| first step after a kill |"),
    ],
)
def test_training_is_measured(tmp_path: Path, name: str, words: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"bench_{name}.py"), *words, "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    assert "CHECK FAILED" not in done.stdout
    records = read(tmp_path / f"{name}.jsonl", Trained, bench_start.Waited)
    assert records
    assert not [path for path in tmp_path.glob("run-*") if path.is_dir()]
