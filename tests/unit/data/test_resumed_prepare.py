"""A preparation that is killed and started again goes on where it was, and ends with the same files."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from firstlight.data import batch as batch_module
from firstlight.data.journal import Journal
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.tokenizer import train_tokenizer

TEXT = "the first light of a new day\n"

KILLED_AT_FLUSH = """
import logging, os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path, PosixPath, WindowsPath
from firstlight.data import batch, document
from firstlight.data.prepare import PrepareRequest, prepare
logging.basicConfig(level="INFO")
batch._BATCH_PIECES = 5
document.WHOLE_SIZE, document.PIECE_SIZE = 500, 100
flushes, flush = 0, os.fsync
def flush_or_die(descriptor):
    global flushes
    flushes += 1
    if flushes == {flush}:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = flush_or_die
prepare({request!r})
"""


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrepareRequest:
    """Documents of all kinds in several files: good ones, bad ones, long ones, lists, empty ones."""
    monkeypatch.setattr(batch_module, "_BATCH_PIECES", 5)
    monkeypatch.setattr("firstlight.data.document.WHOLE_SIZE", 500)
    monkeypatch.setattr("firstlight.data.document.PIECE_SIZE", 100)
    train_tokenizer([TEXT], 270).save(str(tmp_path / "tokenizer.json"))
    folder = tmp_path / "in"
    folder.mkdir()
    records: list[object] = [f"{number}: {TEXT}" for number in range(12)]
    records += [[TEXT, "", "two"], "", TEXT * 40, [], ["half", "\ud800"]]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": record}) + "\n" for record in records) + "{\n")
    (folder / "b.txt").write_bytes(TEXT.encode() * 40 + b"\xff")
    (folder / "c.txt").write_text(TEXT * 3)
    (folder / "d.jsonl").write_text("".join(json.dumps({"text": f"d{number}"}) + "\n" for number in range(9)))
    return PrepareRequest(
        inputs=(folder,),
        tokenizer=tmp_path / "tokenizer.json",
        output_prefix=tmp_path / "out" / "set",
        held_out_fraction=0.3,
        on_error="skip",
        encoder="tokenizers",
        journal_seconds=0.0,
    )


def outputs(request: PrepareRequest) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in request.output_prefix.parent.iterdir()}


def run_until_flush(request: PrepareRequest, flush: int) -> subprocess.CompletedProcess[str]:
    program = KILLED_AT_FLUSH.format(path=sys.path, flush=flush, request=request)
    return subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("rows", "flush"), [(None, 19), ("stitch", 13), pytest.param(None, 10, marks=pytest.mark.slow)]
)
def test_killed_again_and_again(request_: PrepareRequest, tmp_path: Path, rows: str | None, flush: int) -> None:
    if rows is not None:
        request_ = replace(request_, rows=rows, sequence_length=6)  # type: ignore[arg-type]
    prepare(request_)
    expected = outputs(request_)
    request = replace(request_, output_prefix=tmp_path / "again" / "set")
    num_killed = num_continued = 0
    while (run := run_until_flush(request, flush)).returncode:
        assert run.returncode == -9, run.stderr
        num_killed += 1
        num_continued += "going on after" in run.stderr
        assert "starting over" not in run.stderr
        assert num_killed < 30
    assert num_killed >= 2
    assert num_continued >= num_killed - 1
    assert outputs(request) == expected


@pytest.mark.slow
def test_killed_at_every_flush(request_: PrepareRequest, tmp_path: Path) -> None:
    prepare(request_)
    expected = outputs(request_)
    for flush in range(1, 200):
        request = replace(request_, output_prefix=tmp_path / f"again{flush}" / "set")
        if run_until_flush(request, flush).returncode == 0:
            assert flush > 30
            return
        prepare(request)
        assert outputs(request) == expected, flush
    pytest.fail("it never ended")


@pytest.fixture
def killed(request_: PrepareRequest) -> PrepareRequest:
    """A request whose run was killed half way."""
    assert run_until_flush(request_, 40).returncode == -9
    assert "set.journal" in outputs(request_)
    return request_


def continued(request: PrepareRequest, caplog: pytest.LogCaptureFixture) -> bool:
    caplog.set_level("INFO", logger="firstlight")
    prepare(request)
    assert sorted(outputs(request)) == [
        "set.histogram.npy",
        "set.json",
        "set_heldout_text_document.bin",
        "set_heldout_text_document.idx",
        "set_text_document.bin",
        "set_text_document.idx",
    ]
    return "going on after" in caplog.text


def test_what_was_left_out_is_counted_once(killed: PrepareRequest, caplog: pytest.LogCaptureFixture) -> None:
    assert continued(killed, caplog)
    left_out = json.loads(Path(f"{killed.output_prefix}.json").read_text())["left_out"]
    assert left_out["documents"] == len(left_out["messages"]) == 3


def test_other_arguments_start_over(killed: PrepareRequest, caplog: pytest.LogCaptureFixture) -> None:
    assert not continued(replace(killed, append_eod=False), caplog)
    assert "other arguments" in caplog.text


def test_changed_input_starts_over(killed: PrepareRequest, caplog: pytest.LogCaptureFixture) -> None:
    os.utime(killed.inputs[0] / "a.jsonl", (1, 1))
    assert not continued(killed, caplog)
    assert "the input has changed" in caplog.text


def test_a_damaged_journal_starts_over(killed: PrepareRequest, caplog: pytest.LogCaptureFixture) -> None:
    journal = Path(f"{killed.output_prefix}.journal")
    journal.write_bytes(journal.read_bytes()[:-9])
    assert not continued(killed, caplog)
    assert "its journal is damaged" in caplog.text


def test_lost_tokens_start_over(killed: PrepareRequest, caplog: pytest.LogCaptureFixture) -> None:
    os.truncate(f"{killed.output_prefix}_text_document.bin.partial", 3)
    assert not continued(killed, caplog)
    assert "is not there any more" in caplog.text


def test_resuming_can_be_declined(killed: PrepareRequest, caplog: pytest.LogCaptureFixture) -> None:
    assert not continued(replace(killed, resume=False), caplog)
    assert "starting over" not in caplog.text


def test_a_full_disk_keeps_what_was_done(
    request_: PrepareRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = Journal.write
    count = 0

    def fail(self: Journal, progress: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        written(self, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "write", fail)
    with pytest.raises(OSError, match="No space"):
        prepare(request_)
    assert continued(request_, caplog)


def test_a_fault_in_the_input_leaves_nothing(request_: PrepareRequest) -> None:
    with pytest.raises(Exception, match="half a surrogate"):
        prepare(replace(request_, on_error="stop"))
    assert outputs(request_) == {}


def test_standard_input_is_not_gone_on_with_and_leftovers_are_swept(
    request_: PrepareRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = request_.output_prefix.parent
    folder.mkdir()
    leftovers = ("set.standard-input.abc.partial", "set.journal.partial", "set_heldout_text_document.bin.partial")
    others = ("set2.standard-input.abc.partial", "set2_text_document.bin.partial")
    for name in leftovers + others:
        (folder / name).touch()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((TEXT * 9).encode())))
    caplog.set_level("INFO", logger="firstlight")
    prepare(replace(request_, inputs=(Path("-"),), documents="line", held_out_fraction=0.0))
    assert "standard input cannot be read twice" in caplog.text
    assert sorted(outputs(request_)) == [
        "set.histogram.npy",
        "set.json",
        *others,
        "set_text_document.bin",
        "set_text_document.idx",
    ]
