"""Firstlight and the programs beside it, each started in a process of its own on the same models and tokens."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, peers_venv
from benchmarks.started import ALLOCATOR, end_what_was_started, run
from benchmarks.train_cases import Case
from benchmarks.train_firstlight import DataSet, require, train
from benchmarks.train_record import Limit, Trained, append

ROOT = Path(__file__).parents[1]
OWN = "firstlight"
AS_FOUND, TUNED, ITS_OWN = "as found", "allocator", "its own"
"""What a process is started with. Firstlight is always started as a user does, and sets the allocator itself."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Where they run, and how."""

    folder: Path
    peers: Path
    threads: int
    results: Path
    retries: int = 0
    """How often a process that others disturbed is run once more; the least disturbed one is kept."""

    @classmethod
    def of(cls, wanted: argparse.Namespace) -> "Programs":
        """As the flags of `add_flags` say; the data set is made where there is none."""
        end_what_was_started()
        folder = wanted.folder.absolute()
        DataSet(folder=folder / "data").prepare()
        results = wanted.results or folder / f"{Path(sys.argv[0]).stem.removeprefix('bench_')}.jsonl"
        if not wanted.append:
            results.unlink(missing_ok=True)
        return cls(
            folder=folder,
            peers=wanted.peers_venv,
            threads=wanted.threads,
            results=results.absolute(),
            retries=wanted.retries,
        )

    def missing(self, wanted: Sequence[str]) -> list[str]:
        """Of the programs `wanted`, those that are not installed; said once."""
        reasons = peers_venv.missing(self.peers)
        found = [name for name in wanted if name in reasons]
        for name in found:
            print(f"- {name} is missing: {reasons[name]}")
        return found

    def limit(self, round_: int) -> Limit:
        """What matrix products reach, in a process of its own."""
        command = [sys.executable, str(ROOT / "benchmarks" / "gemm_limit.py"), "--threads", str(self.threads)]
        ended = require(run(command, more={}, folder=self.folder))
        foreign = ended.load.share(ended.begun, ended.begun + ended.seconds)
        return self._kept(
            Limit(round=round_, threads=self.threads, gigaflops=json.loads(ended.output), foreign_share=foreign)
        )

    def train(self, program: str, case: Case, *, steps: int, settings: str = AS_FOUND, round_: int = 0) -> Trained:
        """One process, or as many as the case says. A program that fails has a record that says so."""
        found: list[Trained] = []
        while len(found) <= self.retries and not any(one.is_quiet for one in found):
            found.append(self._once(program, case, steps, settings, round_))
            print(f"  {found[-1].line()}", file=sys.stderr, flush=True)
        return self._kept(min(found, key=lambda one: one.foreign_share))

    def _once(self, program: str, case: Case, steps: int, settings: str, round_: int) -> Trained:
        how = self._own(case, steps) if program == OWN else self._peer(program, case, steps, settings)
        return Trained(
            program=program,
            case=case.name,
            settings=ITS_OWN if program == OWN else settings,
            round=round_,
            threads=self.threads,
            processes=case.processes,
            tokens_per_step=case.tokens_per_step,
            flops_per_token=case.flops_per_token,
            machine=machine.describe(),
            time=time.time(),
            **how,
        )

    def _kept(self, record: Any) -> Any:
        append(self.results, record)
        return record

    def _own(self, case: Case, steps: int) -> dict[str, Any]:
        data = DataSet(folder=self.folder / "data")
        output = self.folder / f"run-{time.time_ns()}"
        # The launcher's own choice where that is what is asked for.
        is_usual = self.threads == machine.cores()
        more = {} if is_usual else {"OMP_NUM_THREADS": str(self.threads)}
        try:
            return train(data.write_config(case, output, steps), output, num_processes=case.processes, more=more)
        finally:
            shutil.rmtree(output, ignore_errors=True)
            output.with_suffix(".yaml").unlink()

    def _peer(self, program: str, case: Case, steps: int, settings: str) -> dict[str, Any]:
        tokens = self.folder / f"tokens-{case.batch_size}x{case.sequence_length}x{steps}.npy"
        if not tokens.exists():
            DataSet(folder=self.folder / "data").write_tokens(case, steps, tokens)
        flags = {
            "--program": program,
            "--model": json.dumps(dict(case.model)),
            "--tokens": tokens,
            "--threads": self.threads,
        }
        command = [str(peers_venv.python(self.peers)), "-W", "ignore", str(ROOT / "benchmarks" / "train_peer.py")]
        command += [str(word) for pair in flags.items() for word in pair]
        command += ["--recompute"] if case.recomputes else []
        ended = run(command, more=ALLOCATOR if settings == TUNED else {}, folder=self.folder)
        if ended.error is not None:
            return {"error": ended.error}
        figures: dict[str, Any] = json.loads(ended.output.strip().splitlines()[-1])
        ends, seconds = figures.pop("ends"), figures["seconds"]
        foreign = [ended.load.share(end - taken, end) for end, taken in zip(ends, seconds, strict=True)]
        return figures | {"foreign": foreign, "first_step_seconds": ends[0] - ended.begun}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What every benchmark that trains takes."""
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmarks", help="for data, runs and results")
    parser.add_argument("--results", type=Path, help="where records go; <benchmark>.jsonl in the folder by default")
    parser.add_argument("--append", action="store_true", help="keep the records that are there")
    parser.add_argument("--retries", type=int, default=1, help="of a process that others disturbed")
    parser.add_argument("--peers-venv", type=Path, default=peers_venv.DEFAULT, help="see benchmarks/peers_venv.py")
