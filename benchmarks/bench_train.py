"""Training speed and memory beside other programs: the same models, tokens and threads, in turn, each in a process of
its own, round after round.

Firstlight is run as a user runs it: `firstlight train` on a prepared data set, timed by its own record. The others get
the same tokens from memory, as found and with the allocator's settings that help them. --profile says instead where
the time of Firstlight's step goes.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks import machine, peers_venv, train_firstlight  # noqa: E402
from benchmarks.started import ALLOCATOR, run  # noqa: E402
from benchmarks.train_cases import CASES, Case  # noqa: E402
from benchmarks.train_record import Limit, Trained, append  # noqa: E402
from benchmarks.train_table import show  # noqa: E402

OWN = "firstlight"
AS_FOUND, TUNED = "as found", "allocator"
CAN_TRAIN = {
    "dense": (OWN, "transformers", "trainer", "litgpt", "megatron"),
    "moe": (OWN, "transformers", "trainer"),
}
"""litgpt has no latent attention; megatron-core's needs Transformer Engine, which needs a GPU."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where it is done, and how."""

    folder: Path
    peers: Path
    steps: int
    threads: int
    results: Path

    def tokens(self, case: Case) -> Path:
        """The array that peers read."""
        path = self.folder / f"tokens-{case.name}.npy"
        train_firstlight.DataSet(folder=self.folder / "data").write_tokens(case, self.steps, path)
        return path

    def limit(self, round_: int) -> Limit:
        """Of the machine, in a process of its own."""
        command = [sys.executable, str(ROOT / "benchmarks" / "gemm_limit.py"), "--threads", str(self.threads)]
        begin = time.time()
        ended = train_firstlight.require(run(command, more={}, folder=self.folder))
        foreign = ended.load.share(begin, time.time())
        return Limit(round=round_, threads=self.threads, gigaflops=json.loads(ended.output), foreign_share=foreign)

    def train(self, program: str, case: Case, settings: str, round_: int) -> Trained:
        """One process."""
        how = self._own(case) if program == OWN else self._peer(program, case, settings)
        return Trained(
            program=program,
            case=case.name,
            settings=settings,
            round=round_,
            threads=self.threads,
            tokens_per_step=case.tokens_per_step,
            flops_per_token=case.flops_per_token,
            machine=machine.describe(),
            time=time.time(),
            **how,
        )

    def _own(self, case: Case) -> dict[str, Any]:
        data = train_firstlight.DataSet(folder=self.folder / "data")
        output = self.folder / f"run-{time.time_ns()}"
        # Its launcher's own choice where that is what is asked for.
        more = {} if self.threads == machine.cores() else {"OMP_NUM_THREADS": str(self.threads)}
        return train_firstlight.train(data.write_config(case, output, self.steps), output, more=more)

    def _peer(self, program: str, case: Case, settings: str) -> dict[str, Any]:
        flags = {
            "--program": program,
            "--model": json.dumps(dict(case.model)),
            "--tokens": self.tokens(case),
            "--threads": self.threads,
        }
        command = [str(peers_venv.python(self.peers)), "-W", "ignore", str(ROOT / "benchmarks" / "train_peer.py")]
        command += [str(word) for pair in flags.items() for word in pair]
        ended = run(command, more=ALLOCATOR if settings == TUNED else {}, folder=self.folder)
        if ended.error is not None:
            return {"error": ended.error}
        figures: dict[str, Any] = json.loads(ended.output.strip().splitlines()[-1])
        ends, seconds = figures.pop("ends"), figures["seconds"]
        foreign = [ended.load.share(end - taken, end) for end, taken in zip(ends, seconds, strict=True)]
        return figures | {"foreign": foreign}


def settings_of(program: str) -> tuple[str, ...]:
    """The columns of a program: Firstlight sets the allocator itself."""
    return (AS_FOUND,) if program == OWN else (AS_FOUND, TUNED)


def measure(bench: Bench, wanted: argparse.Namespace) -> list[Trained | Limit]:
    """Every round: the limit, then each program on each model; who begins changes from round to round."""
    records: list[Trained | Limit] = []
    missing = peers_venv.missing(bench.peers)
    for name in sorted(set(wanted.only) & set(missing)):
        print(f"{name}: missing: {missing[name]}")
    for round_ in range(wanted.rounds):
        records.append(bench.limit(round_))
        append(bench.results, records[-1])
        for case in (CASES[name] for name in wanted.model):
            turns = [
                (program, settings)
                for program in CAN_TRAIN[case.name]
                if program in wanted.only and program not in missing
                for settings in settings_of(program)
            ]
            begin = round_ % len(turns) if turns else 0
            for program, settings in turns[begin:] + turns[:begin]:
                records.append(bench.train(program, case, settings, round_))
                append(bench.results, records[-1])
                print(f"  {records[-1].line()}", file=sys.stderr, flush=True)
    return records


def arguments() -> argparse.Namespace:
    """The flags."""
    names = (OWN, *peers_venv.PROGRAMS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(names), help="of " + ",".join(names))
    parser.add_argument("--model", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of each process; the first two are not counted")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--results", type=Path, help="to which each process adds a line; train.jsonl in the folder")
    parser.add_argument("--peers-venv", type=Path, default=peers_venv.DEFAULT)
    parser.add_argument("--make-peers", action="store_true", help="make that environment from PyPI where it is not")
    parser.add_argument("--profile", action="store_true", help="the operators of Firstlight's step, by their time")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    wanted = arguments()
    folder = wanted.folder.absolute()
    train_firstlight.DataSet(folder=folder / "data").prepare()
    if wanted.profile:
        from benchmarks.train_profile import show_profile  # torch is loaded by no one else here

        for name in wanted.model:
            show_profile(CASES[name], folder, steps=wanted.steps, threads=wanted.threads)
        return
    if wanted.make_peers and not peers_venv.python(wanted.peers_venv).exists():
        peers_venv.make(wanted.peers_venv)
    bench = Bench(
        folder=folder,
        peers=wanted.peers_venv,
        steps=wanted.steps,
        threads=wanted.threads,
        results=(wanted.results or folder / "train.jsonl").absolute(),
    )
    show(measure(bench, wanted), [CASES[name] for name in wanted.model])


if __name__ == "__main__":
    main()
