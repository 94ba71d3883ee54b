"""The data path beside its peers, in one run on one machine: index, start, batches, tokenising.

Every figure is of a process of its own. A peer that is not there is left out, with the reason. megatron-core is run by
the interpreter named by FIRSTLIGHT_MEGATRON_PYTHON (docs/development/interop.md).
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.synthetic_set import Shape, write_synthetic_set  # noqa: E402
from benchmarks.table import Row, show  # noqa: E402
from firstlight.data.corpus import standard_library  # noqa: E402
from firstlight.data.tokenizer import train_tokenizer  # noqa: E402

VARIABLE = "FIRSTLIGHT_MEGATRON_PYTHON"
PARTS = ("index", "batches", "tokenise")


@dataclass(frozen=True, kw_only=True)
class Program:
    """An interpreter with a script of this folder; or why there is none."""

    command: tuple[str, ...] = ()
    absent: str | None = None

    def measure(self, what: str, one_thread: bool = False, **options: object) -> dict[str, Any] | None:
        """The figures that the script prints last; None, with a line that says so, where it cannot be run."""
        if self.absent:
            return None
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        variables = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        if one_thread:
            variables |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run([*self.command, what, *words], env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"  failed: {what}: {done.stderr.strip().splitlines()[-1:]}")
            return None
        figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return figures


def started(name: str, figures: dict[str, Any] | None, absent: str | None) -> Row:
    """A row about a start: seconds and the most memory."""
    if figures is None:
        return Row(name=name, rate=None, text=f"left out: {absent or 'it failed'}")
    memory = (
        f"peak {figures['megabytes']:,.0f} MB ({figures['mapped_megabytes']:,.0f} MB mapped from files, "
        f"{figures['start_megabytes']:,.0f} MB before the data)"
    )
    return Row(name=name, rate=1 / figures["seconds"], text=f"{figures['seconds']:8.3f} s, {memory}")


def bench_index(ours: Program, peer: Program, wanted: argparse.Namespace, folder: Path) -> None:
    """From the files to the first sample, without and with an index on disk; files are in the page cache."""
    prefix = folder / "large"
    shape = Shape(num_documents=wanted.documents, longest=240, has_content=False)
    num_tokens = write_synthetic_set(prefix, shape)
    common = {"prefix": prefix, "sequence_length": wanted.index_sequence_length}
    theirs = {**common, "cache": folder / "their_cache"}
    kept = {**common, "cache": folder / "our_cache"}
    rows = [
        started("megatron-core, first start", peer.measure("index", **theirs), peer.absent),
        started("megatron-core, from its cache", peer.measure("index", **theirs), peer.absent),
        started("order: megatron", ours.measure("index", **common), None),
        started("order: megatron, index_cache, first start", ours.measure("index", **kept), None),
        started("order: megatron, index_cache, found", ours.measure("index", **kept), None),
        started("order: permuted", ours.measure("permuted", **common), None),
    ]
    title = f"start: {wanted.documents:,} documents, {num_tokens:,} tokens, sequence_length {common['sequence_length']}"
    show(title, rows)


def bench_batches(ours: Program, peer: Program, wanted: argparse.Namespace, folder: Path) -> None:
    """Batches in one thread, from the page cache; both must read the same tokens."""
    prefix = folder / "middle"
    needed = (wanted.batches + wanted.checked + 1) * wanted.batch_size * wanted.sequence_length
    shape = Shape(num_documents=1 + needed // wanted.mean_length, longest=2 * wanted.mean_length)
    num_tokens = write_synthetic_set(prefix, shape)
    common = {
        "prefix": prefix,
        "sequence_length": wanted.sequence_length,
        "batch_size": wanted.batch_size,
        "batches": wanted.batches,
        "checked": wanted.checked,
    }
    both = [peer.measure("batches", **common, cache=folder / "their_cache"), ours.measure("batches", **common)]
    rows = []
    for name, figures in zip(("megatron-core GPTDataset", "TokenStream"), both, strict=True):
        if figures is None:
            rows.append(Row(name=name, rate=None, text=f"left out: {peer.absent or 'it failed'}"))
            continue
        rate = figures["samples"] / figures["seconds"]
        text = f"{rate:10,.0f} samples/s, peak {figures['megabytes']:,.0f} MB"
        rows.append(Row(name=name, rate=rate, text=text))
    title = f"batches: {num_tokens:,} tokens, documents of {wanted.mean_length} on average, "
    show(f"{title}L={wanted.sequence_length}, batch {wanted.batch_size}", rows)
    if all(both):
        sums = {figures["checksum"] for figures in both if figures}
        print(f"  first {wanted.checked} batches: {'the same tokens and labels' if len(sums) == 1 else 'DIFFERENT'}")


def bench_tokenise(ours: Program, peer: Program, wanted: argparse.Namespace, folder: Path) -> None:
    """Text into ids: per second of the clock and per second of a core."""
    text, tokenizer = write_text(wanted, folder), wanted.tokenizer or write_tokenizer(folder)
    has_gigatoken = importlib.util.find_spec("gigatoken") is not None
    common = {"text": text, "tokenizer": tokenizer}
    runs: list[tuple[str, Program, str, dict[str, object], str | None]] = [
        ("tokenizers, one document at a time", peer, "prepared", {"output": folder / "theirs"}, peer.absent),
        ("tokenizers alone, batches", ours, "encoded", {"encoder": "tokenizers"}, None),
        (
            "gigatoken alone, batches",
            ours if has_gigatoken else Program(absent="gigatoken is not installed"),
            "encoded",
            {"encoder": "gigatoken"},
            "gigatoken is not installed",
        ),
        ("firstlight prepare", ours, "prepared", {"output": folder / "ours"}, None),
    ]
    rows = []
    for name, program, what, more, absent in runs:
        figures = program.measure(what, one_thread=True, **common, **more)
        if figures is None:
            rows.append(Row(name=name, rate=None, text=f"left out: {absent or 'it failed'}"))
            continue
        rate = figures["tokens"] / figures["cpu_seconds"]
        times = f"{figures['tokens'] / figures['seconds'] / 1e6:6.2f} M tokens/s, {rate / 1e6:6.2f} M per core"
        encoder = f", {figures['encoder']}" if "encoder" in figures else ""
        rows.append(Row(name=name, rate=rate, text=f"{times}, peak {figures['megabytes']:,.0f} MB{encoder}"))
    show(f"tokenising: {text.stat().st_size / 1e6:,.1f} MB of text, one thread (ratio: per core)", rows)


def write_text(wanted: argparse.Namespace, folder: Path) -> Path:
    """JSON lines: the files given by --text, or Python sources of this installation; none of them twice.

    Encoders remember the words that they have seen, so text that repeats itself would flatter them.
    """
    paths = wanted.text or [
        *(file.path for file in standard_library()),
        *sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")),
    ]
    path = folder / "text.jsonl"
    num_characters = 0
    with path.open("w", encoding="utf-8") as file:
        for one in paths:
            text = one.read_text(encoding="utf-8", errors="replace")
            file.write(json.dumps({"text": text}) + "\n")
            num_characters += len(text)
            if num_characters >= wanted.text_megabytes * 1e6:
                break
    return path


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer trained on a part of the standard library."""
    path = folder / "tokenizer.json"
    files = standard_library()[:200]
    texts = (file.path.read_text(encoding="utf-8", errors="replace") for file in files)
    train_tokenizer(texts, 16384).save(str(path))
    return path


def find_peer() -> Program:
    """megatron-core, if the variable names an interpreter that has it."""
    python = os.environ.get(VARIABLE)
    if not python:
        return Program(absent=f"{VARIABLE} is not set")
    probe = "from importlib.metadata import version; import megatron.core.datasets; print(version('megatron-core'))"
    try:
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    except OSError as error:
        return Program(absent=f"{VARIABLE}: {python} cannot be run: {error.strerror}")
    if done.returncode:
        return Program(absent=f"{python} has no megatron-core")
    print(f"megatron-core {done.stdout.strip()}")
    return Program(command=(python, "-W", "ignore", str(ROOT / "benchmarks" / "data_megatron.py")))


def arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--folder", type=Path, help="for files, removed at the end; the system's for such by default")
    parser.add_argument("--documents", type=int, default=100_000_000, help="of the set that is started (20 B each)")
    parser.add_argument("--index-sequence-length", type=int, default=4096)
    parser.add_argument("--sequence-length", type=int, default=2048, help="of batches")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=1000, help="that are timed")
    parser.add_argument("--checked", type=int, default=10, help="batches that are compared before")
    parser.add_argument("--mean-length", type=int, default=500, help="of documents that batches are read from")
    parser.add_argument("--text", type=Path, nargs="+", help="text files; sources of Python packages by default")
    parser.add_argument("--text-megabytes", type=float, default=50, help="take no more text than this")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; one trained here by default")
    return parser.parse_args()


def main() -> None:
    """Measure what was asked for."""
    wanted = arguments()
    ours = Program(command=(sys.executable, str(ROOT / "benchmarks" / "data_ours.py")))
    peer = find_peer()
    measures = {"index": bench_index, "batches": bench_batches, "tokenise": bench_tokenise}
    for part in wanted.parts:
        with tempfile.TemporaryDirectory(prefix="firstlight-bench-", dir=wanted.folder) as name:
            measures[part](ours, peer, wanted, Path(name))


if __name__ == "__main__":
    main()
