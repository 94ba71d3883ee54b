import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.observe.history import read_histories, thinned
from firstlight.observe.live_page import served
from tests.unit.observe.live import add_everything, add_step
from tests.unit.observe.synthetic import record_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return add_everything(record_run(tmp_path / "run"))


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    with served([run], 0) as address:
        yield address


def get(address: str, host: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, answer.read()


def test_state_is_sent_when_it_has_changed(run: Path, address: str) -> None:
    _, body = get(f"{address}state")
    before = json.loads(body)
    assert get(f"{address}state?since={before['version']}") == (204, b"")
    add_step(run, 410, 2.5)
    status, body = get(f"{address}state?since={before['version']}")
    after = json.loads(body)
    assert (status, before["step"], after["step"]) == (200, 400, 410)
    (loss,) = [chart for chart in after["charts"] if chart["title"] == "Loss"]
    assert (loss["data"][0]["x"][-1], loss["data"][0]["y"][-1]) == (410, 2.5)
    assert after["axes"]["0/"]["step"][-1] == 410
    assert "2.5000" in after["essentials"]


def test_page_may_ask_its_own_address_and_nothing_else(address: str) -> None:
    status, body = get(address)
    assert status == 200
    text = body.decode()
    assert "default-src 'none'" in text
    assert "connect-src 'self'" in text
    assert 'data-step="400"' in text
    for path in ("metrics.jsonl", "../run.json", "%2e%2e/config.yaml"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(address + path)


def test_another_name_for_this_machine_is_refused(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(address, host="example.org:8050")


def test_a_run_without_records_is_waited_for(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with served([empty], 0) as address:
        assert b"refresh" in get(address)[1]
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(f"{address}state")
        record_run(empty)
        assert b"data-step" in get(address)[1]


def test_a_port_that_is_taken_is_said(run: Path, address: str) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(InputError, match=f"--port {port}: Address already in use"), served([run], port):
        pass


def test_long_runs_are_thinned_evenly_with_the_last_record(run: Path) -> None:
    (history,) = read_histories([run])
    few = thinned(history, 7)
    steps = [line["step"] for line in few.steps]
    assert len(steps) == 7
    assert steps[-1] == 400
    assert steps == sorted(steps)
    assert thinned(history, 1000).steps == history.steps
