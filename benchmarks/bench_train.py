"""Training speed and memory beside other programs: the same models, tokens and threads, in turn, each in a process of
its own, round after round.

Firstlight is run as a user runs it: `firstlight train` on a prepared data set, timed by its own record. The others get
the same tokens from memory, as found and with the allocator's settings that help them. --profile says instead where
the time of Firstlight's step goes.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks import peers_venv  # noqa: E402
from benchmarks.programs import AS_FOUND, OWN, TUNED, Programs, add_flags  # noqa: E402
from benchmarks.train_cases import CASES  # noqa: E402
from benchmarks.train_record import Limit, Trained, read  # noqa: E402
from benchmarks.train_table import show  # noqa: E402

CAN_TRAIN = {
    "dense": (OWN, "transformers", "trainer", "litgpt", "megatron"),
    "moe": (OWN, "transformers", "trainer"),
}
"""litgpt has no latent attention; megatron-core's needs Transformer Engine, which needs a GPU."""


def settings_of(program: str) -> tuple[str, ...]:
    """The columns of a program: Firstlight sets the allocator itself."""
    return (AS_FOUND,) if program == OWN else (AS_FOUND, TUNED)


def measure(programs: Programs, wanted: argparse.Namespace) -> None:
    """Every round: each program on each model, the limit before each; who begins changes from round to round."""
    missing = programs.missing(wanted.only)
    first = 1 + max((one.round for one in read(programs.results, Limit)), default=-1)
    for round_ in range(first, first + wanted.rounds):
        for case in (CASES[name] for name in wanted.model):
            turns = [
                (program, settings)
                for program in CAN_TRAIN[case.name]
                if program in wanted.only and program not in missing
                for settings in settings_of(program)
            ]
            begin = round_ % len(turns) if turns else 0
            for program, settings in turns[begin:] + turns[:begin]:
                programs.limit(round_)
                programs.train(program, case, steps=wanted.steps, settings=settings, round_=round_)


def arguments() -> argparse.Namespace:
    """The flags."""
    names = (OWN, *peers_venv.PROGRAMS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(names), help="of " + ",".join(names))
    parser.add_argument("--model", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of each process; the first two are not counted")
    parser.add_argument("--profile", action="store_true", help="the operators of Firstlight's step, by their time")
    add_flags(parser)
    wanted = parser.parse_args()
    if unknown := set(wanted.only) - set(names):
        parser.error(f"--only {','.join(sorted(unknown))}: no such program; there are {', '.join(names)}")
    return wanted


def main() -> None:
    """Measure and print."""
    wanted = arguments()
    if wanted.profile:
        from benchmarks.train_profile import (
            show_profile,
        )  # loads torch, which would take memory beside what is measured

        for name in wanted.model:
            show_profile(CASES[name], wanted.folder.absolute(), steps=wanted.steps, threads=wanted.threads)
        return
    programs = Programs.of(wanted)
    measure(programs, wanted)
    show(read(programs.results, Trained, Limit), [CASES[name] for name in wanted.model])


if __name__ == "__main__":
    main()
