"""Long sequences: speed and memory at 8K and 32K tokens beside other programs, all computing layers again.

8K is the mixture of the side-by-side benchmark; at 32K, where attention is most of the work, it has two layers and
four heads, so that a step is over within a minute or two.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.programs import AS_FOUND, OWN, TUNED, Programs, add_flags  # noqa: E402
from benchmarks.train_cases import MOE, Case  # noqa: E402
from benchmarks.train_record import Trained, load_text, read  # noqa: E402

SHORTER = {**MOE, "num_hidden_layers": 2, "attention": {**MOE["attention"], "num_attention_heads": 4}}
CONTEXT_PARALLEL = {"parallelism": {"context_parallel": 2}}
PEER = "transformers"


def long_case(length: int, *, processes: int = 1) -> Case:
    """One sequence of so many tokens."""
    model = SHORTER if length > 8192 else MOE
    return Case(
        name=f"{length} tokens" if processes == 1 else f"{length} tokens, context parallel {processes}",
        model={**model, "max_position_embeddings": length},
        batch_size=1,
        sequence_length=length,
        recomputes=True,
        processes=processes,
        sections=CONTEXT_PARALLEL if processes > 1 else {},
    )


def lines(records: Sequence[Trained]) -> list[str]:
    """The table as Markdown."""
    rows = [
        "| sequence | program | settings | tokens/s | GFLOP/s | peak memory of a process | others' load |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in records:
        if one.error is not None:
            rows.append(f"| {one.case} | {one.program} | {one.settings} | failed: {one.error} | | | |")
            continue
        rate = one.tokens_per_step / statistics.median(one.measured_seconds)
        rows.append(
            f"| {one.case} | {one.program} | {one.settings} | {rate:.0f} | {rate * one.flops_per_token / 1e9:.1f} "
            f"| {one.peak_bytes / 1e9:.2f} GB | {load_text(one.foreign_share)} |"
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 32768])
    parser.add_argument("--only", nargs="+", choices=(OWN, PEER), default=[OWN, PEER])
    add_flags(parser)
    wanted = parser.parse_args()
    programs = Programs.of(wanted)
    missing = programs.missing(wanted.only)
    for length in wanted.lengths:
        steps = 4 if length <= 8192 else 2  # the first of two is not counted
        if OWN in wanted.only:
            programs.train(OWN, long_case(length), steps=steps)
            programs.train(OWN, long_case(length, processes=2), steps=steps)
        if PEER in wanted.only and PEER not in missing:
            for settings in (AS_FOUND, TUNED):
                programs.train(PEER, long_case(length), steps=steps, settings=settings)
    print("\n".join(lines(read(programs.results, Trained))))


if __name__ == "__main__":
    main()
