"""A rank answers when it is asked, also while its main thread waits for something."""

from pathlib import Path

from firstlight.base.traces import answer_when_asked, ask_all, keep_traces
from tests.runs import wait_until


def test_ranks_answer_and_what_they_wrote_is_kept(tmp_path: Path) -> None:
    asked, kept = tmp_path / "asked", tmp_path / "run" / "logs" / "here"
    asked.mkdir()
    for rank in (0, 1):
        answer_when_asked(asked, rank, lambda rank=rank: b'{"rank": %d}' % rank)  # type: ignore[misc]
    (asked / "stacks-0.txt").write_text("in wait\n")
    (asked / "stacks-1.txt").write_text("")
    answers = [asked / f"collectives-{rank}.json" for rank in (0, 1)]
    assert not any(answer.exists() for answer in answers), "nobody has asked yet"
    ask_all(asked)
    wait_until(lambda: all(answer.exists() for answer in answers), timeout=10)
    assert answers[1].read_text() == '{"rank": 1}'
    assert keep_traces(asked, kept)
    assert {path.name for path in kept.iterdir()} == {"collectives-0.json", "collectives-1.json", "stacks-0.txt"}


def test_nobody_waits_any_more(tmp_path: Path) -> None:
    answer_when_asked(tmp_path, 0, lambda: b"{}")
    ask_all(tmp_path)
    wait_until((tmp_path / "collectives-0.json").exists, timeout=10)
    ask_all(tmp_path)
    assert not keep_traces(tmp_path / "none", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
