"""The largest model like DeepSeek-V3 that trains within 8 GB, with Firstlight and with Hugging Face's.

Layers are computed again in the backward pass by both. Sizes grow by the width; each is a training of two steps in a
process of its own, whose peak memory up to the last step is measured. Firstlight saves its last state after that, the
other program nothing: the peak with that save is told beside.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.programs import AS_FOUND, OWN, Programs, add_flags  # noqa: E402
from benchmarks.train_cases import SEQUENCE_LENGTH, VOCABULARY_SIZE, Case  # noqa: E402
from benchmarks.train_record import Trained, load_text, read  # noqa: E402

PEER = "transformers"
BATCH_SIZE = 4
LIMIT_BYTES = 8_000_000_000
STEPS = 2
STEP = 64
FIRST = (512, 768)
"""Widths that tell how memory grows."""
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "firstlight": (OWN, {}),
    "firstlight, bf16 moments": (OWN, {"optimizer": {"moments": "bf16"}}),
    "transformers": (PEER, {}),
}
"""Program, and what Firstlight's configuration says besides."""


def wide_case(way: str, hidden_size: int) -> Case:
    """Eight layers, one of them dense, with 16 experts of half the width and one that is shared."""
    model = {
        "family": "deepseek_v3",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": hidden_size,
        "num_hidden_layers": 8,
        "max_position_embeddings": SEQUENCE_LENGTH,
        "attention": {
            "kind": "mla",
            "num_attention_heads": hidden_size // 32,
            "q_lora_rank": 3 * hidden_size // 8,
            "kv_lora_rank": hidden_size // 4,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
        },
        "feed_forward": {
            "kind": "moe",
            "first_k_dense_replace": 1,
            "intermediate_size": 3 * hidden_size,
            "moe_intermediate_size": hidden_size // 2,
            "n_routed_experts": 16,
            "n_shared_experts": 1,
            "router": {"num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
        },
    }
    # A save beside the steps would take a copy of the state.
    sections = {"checkpoint": {"asynchronous": False}, **WAYS[way][1]}
    name = f"{way}, width {hidden_size}"
    return Case(name=name, model=model, batch_size=BATCH_SIZE, recomputes=True, sections=sections)


def search(measure: Callable[[int], int | None], limit_bytes: int) -> int | None:
    """The largest width whose measured bytes are within the limit, None where even the first is not.

    `measure` gives the peak of a width, None where it failed.
    """
    taken = {width: measure(width) for width in FIRST}
    if any(peak is None or peak > limit_bytes for peak in taken.values()):
        return None
    # Parameters, and so bytes, grow with the square of the width.
    slope, rest = statistics.linear_regression([width**2 for width in taken], [float(p or 0) for p in taken.values()])
    width = max(int(max((limit_bytes - rest) / slope, 0) ** 0.5) // STEP * STEP, FIRST[-1])
    while not _fits(taken, measure, width, limit_bytes):
        width -= STEP
    while _fits(taken, measure, width + STEP, limit_bytes):
        width += STEP
    return width


def _fits(taken: dict[int, int | None], measure: Callable[[int], int | None], width: int, limit_bytes: int) -> bool:
    if width not in taken:
        taken[width] = measure(width)
    peak = taken[width]
    return peak is not None and peak <= limit_bytes


def lines(records: Sequence[Trained], limit_bytes: int = LIMIT_BYTES) -> list[str]:
    """Every size that was tried, as Markdown, and the largest of each way."""
    rows = [
        "| program | parameters | peak memory | bytes per parameter | with the save | tokens/s | within the limit "
        "| others' load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    largest: dict[str, int] = {}
    for one in sorted(records, key=lambda one: (one.case.rpartition(",")[0], one.parameters)):
        way = one.case.rpartition(",")[0]
        if one.error is not None:
            rows.append(f"| {one.case} | failed: {one.error} | | | | | no | |")
            continue
        is_within = one.peak_bytes <= limit_bytes
        saved = f"{one.whole_peak_bytes / 1e9:.2f} GB" if one.whole_peak_bytes else ""
        if is_within:
            largest[way] = max(largest.get(way, 0), one.parameters)
        rows.append(
            f"| {one.case} | {one.parameters / 1e6:.0f} M | {one.peak_bytes / 1e9:.2f} GB "
            f"| {one.peak_bytes / one.parameters:.1f} | {saved} | {one.tokens_per_second:.0f} "
            f"| {'yes' if is_within else 'no'} | {load_text(one.foreign_share)} |"
        )
    tried = {way: max(one.parameters for one in records if one.case.rpartition(",")[0] == way) for way in largest}
    said = [
        f"- {way}: {parameters / 1e6:.0f} M parameters within the limit"
        + ("; larger ones were not tried" if tried[way] == parameters else "")
        for way, parameters in largest.items()
    ]
    return [*rows, "", *said]


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=LIMIT_BYTES / 1e9)
    parser.add_argument("--only", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    add_flags(parser)
    wanted = parser.parse_args()
    programs = Programs.of(wanted)
    missing = programs.missing([WAYS[way][0] for way in wanted.only])
    known = {one.case: one for one in read(programs.results, Trained)}  # with --append
    limit_bytes = int(wanted.gigabytes * 1e9)
    for way in wanted.only:
        program = WAYS[way][0]

        def measure(width: int, way: str = way, program: str = program) -> int | None:
            case = wide_case(way, width)
            one = known.get(case.name) or programs.train(program, case, steps=STEPS, settings=AS_FOUND)
            return None if one.error is not None else one.peak_bytes

        if program not in missing:
            search(measure, limit_bytes)
    print("\n".join(lines(read(programs.results, Trained), limit_bytes)))


if __name__ == "__main__":
    main()
