import io
from pathlib import Path

from rich.console import Console as Terminal

from firstlight.observe.watch import NewLines, RunWatch, watch_in_terminal
from tests.unit.observe.live import add_everything, add_step
from tests.unit.observe.synthetic import record_run


def drawn(watch: RunWatch) -> str:
    stream = io.StringIO()
    Terminal(file=stream, width=120).print(watch.look())
    return stream.getvalue()


def test_the_panel_keeps_up_with_the_folder(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path / "run")
    assert "step 0" in drawn(watch)
    run = add_everything(record_run(tmp_path / "run"))
    watch = RunWatch(run)
    assert "step 400 of 400" in drawn(watch)
    assert "last checkpoint step 400" in drawn(watch)
    add_step(run, 410, 2.5)
    assert "loss 2.5000" in drawn(watch)


def test_half_a_line_waits_for_its_end_and_a_rewritten_file_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = NewLines(path)
    assert lines.take() == []
    path.write_text('{"a": 1}\n{"a":')
    assert lines.take() == [{"a": 1}]
    with path.open("a") as file:
        file.write(" 2}\n")
    assert lines.take() == [{"a": 2}]
    assert lines.take() == []
    beside = tmp_path / "beside"
    beside.write_text('{"a": 3}\n')
    beside.replace(path)
    assert lines.take() == [{"a": 3}]
    assert lines.is_rewritten


def test_it_ends_when_told(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run")
    stream = io.StringIO()
    watch_in_terminal(run, is_over=lambda: True, terminal=Terminal(file=stream, width=100))
    assert "step 400 of 400" in stream.getvalue()
