"""A search for layouts as text and as plain values for JSON."""

from typing import Any

from firstlight.plan.search import Found, Search, why_slower

_SHOWN = 5


def search_lines(search: Search) -> list[str]:
    """For people: the best, why the next ones lost, and what trades time for memory."""
    best, room = search.best, search.best.plan.hardware.memory_bytes.value
    lines = [
        f"{search.num_candidates:,} layouts, of which {search.num_fitting:,} divide evenly and fit; "
        f"{len(search.simulated)} simulated",
        "",
        "the fastest",
    ]
    for place, one in enumerate(search.simulated[:_SHOWN], start=1):
        lines.append(f"  {place}. {_line(one, room)}")
        if one is not best:
            percent = 100 * (one.seconds / best.seconds - 1)
            lines.append(f"     {percent:.1f} % slower: {why_slower(one, best) or 'no part by half a millisecond'}")
    lines += ["", "time against memory: nothing is faster and leaves more"]
    lines += [f"  {_line(one, room)}" for one in search.front]
    return lines


def search_values(search: Search) -> dict[str, Any]:
    """Everything."""
    front = {id(one) for one in search.front}
    return {
        "candidates": search.num_candidates,
        "fitting": search.num_fitting,
        "simulated": [
            {
                "parallelism": one.candidate.parallelism.model_dump(mode="json"),
                "micro_batch_size": one.candidate.micro_batch_size,
                "recompute": one.candidate.recompute.model_dump(mode="json"),
                "step_seconds": one.seconds,
                "memory_bytes": one.most_bytes,
                "parts_seconds": one.parts,
                "is_on_front": id(one) in front,
            }
            for one in search.simulated
        ],
    }


def _line(one: Found, room: float) -> str:
    left = (room - one.most_bytes) / 1e9
    return f"{one.seconds:,.3f} s, {one.most_bytes / 1e9:,.1f} GB ({left:,.1f} left): {one.candidate.describe()}"
