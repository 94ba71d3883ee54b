"""While rows are on their way between ranks, the shared expert is computed: forward and backward."""

import json
from pathlib import Path

from tests.equivalence.test_layouts import run_ranks


def test_the_shared_expert_is_computed_while_rows_travel(tmp_path: Path) -> None:
    run_ranks(tmp_path / "ranks", 2, ["overlap"], module="tests.equivalence.overlap")
    for rank in range(2):
        events = json.loads((tmp_path / "ranks" / f"overlap-{rank}.json").read_text())
        there, experts, back = _legs(events["forward"])
        assert (there, back) == ([], ["shared"] * 3)
        assert experts == ["expert"] * 3
        there, experts, back = _legs(events["backward"])
        assert (there, back) == (["shared"] * 6, [])
        assert set(experts) == {"expert"}


def _legs(events: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What is done while the rows of the first exchange travel, between the exchanges, and during the second."""
    begins = [place for place, event in enumerate(events) if event == "begin"]
    waits = [place for place, event in enumerate(events) if event == "wait"]
    (first, second), (first_end, second_end) = begins, waits
    assert first < first_end < second < second_end
    return events[first + 1 : first_end], events[first_end + 1 : second], events[second + 1 : second_end]
