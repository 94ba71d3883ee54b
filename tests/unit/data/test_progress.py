"""How far the reading of a corpus is, where nobody can see a bar."""

import io
import re

import pytest
from rich.console import Console

from firstlight.data import progress as progress_module
from firstlight.data.progress import PlainProgress, shown_progress


def test_lines_tell_speed_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="firstlight")
    advance = PlainProgress("tokenizing", 9_000_000, bytes_before=1_000_000, tokens_before=100, seconds=0.0)
    advance(num_bytes=5_000_000, num_tokens=1_000_100)
    (line,) = caplog.messages
    found = re.fullmatch(r"tokenizing: 5 of 9 MB, ([0-9.,]+) MB/s, ([0-9,]+) tokens/s, (\d+) s left", line)
    assert found is not None
    megabytes, tokens = (float(found[k].replace(",", "")) for k in (1, 2))
    assert tokens / megabytes == pytest.approx(1_000_000 / 4, rel=0.01)


def test_a_short_run_has_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="firstlight")
    with shown_progress("tokenizing", 100) as advance:
        advance(num_bytes=50, num_tokens=10)
    assert caplog.messages == []


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress_module, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=200))
    with shown_progress("tokenizing", 10_000_000, bytes_before=1_000_000) as advance:
        advance(num_bytes=5_000_000, num_tokens=1_000_000)
    assert "tokenizing" in terminal.getvalue()
    assert "5.0/10.0 MB" in terminal.getvalue()
    assert "tokens/s" in terminal.getvalue()
