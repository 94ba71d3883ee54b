import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from firstlight.config.monitor import AlertConfig
from firstlight.observe.alerts import Alerts
from firstlight.observe.events import EVENTS_FILE, EventLog, read_events


def raised(folder: Path, config: AlertConfig, values: list[float], name: str = "loss") -> list[int]:
    """The steps after which an alert was raised."""
    alerts = Alerts([config], EventLog(folder / EVENTS_FILE), run="run")
    alerts.open(0)
    for step, value in enumerate(values, start=1):
        alerts.write_step({"step": step, name: value})
    alerts.close()
    return [event.step for event in read_events(folder / EVENTS_FILE) if event.kind == "alert"]


def test_an_alert_is_raised_when_its_rule_begins_to_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="firstlight")
    assert raised(tmp_path, AlertConfig(when="loss > 4"), [3, 5, 6, 3, float("nan"), 7, 1]) == [2, 5]
    assert "alert after step 2: loss > 4: loss = 5" in caplog.text
    assert read_events(tmp_path / EVENTS_FILE)[1].facts == {"when": "loss > 4", "loss": None}


def test_some_rules_must_hold_for_a_while(tmp_path: Path) -> None:
    assert raised(tmp_path, AlertConfig(when="loss > 4", for_records=3), [5, 5, 1, 5, 5, 5, 5]) == [6]


def test_a_median_is_of_the_records_before(tmp_path: Path) -> None:
    rule = AlertConfig(when="tokens_per_second < 0.8 * median")
    speeds = [10.0, 100.0, 100.0, 100.0, 100.0, 100.0, 79.0, 100.0, 81.0]
    assert raised(tmp_path, rule, speeds, name="tokens_per_second") == [7]


def test_rules_about_held_out_sets_are_judged_after_evaluations_beside_the_last_step(tmp_path: Path) -> None:
    rules = ("evaluate/wiki/loss - loss > 1", "loss > 1")
    events = EventLog(tmp_path / EVENTS_FILE)
    alerts = Alerts([AlertConfig(when=when) for when in rules], events, run="run")
    for step, held_out in ((1, 2.5), (2, 3.5), (3, 3.6)):
        alerts.write_step({"step": step, "loss": 2.0})
        alerts.write_evaluation({"step": step, "evaluate/wiki/loss": held_out, "tokens": 7})
    found = [(event.step, event.facts["when"]) for event in read_events(tmp_path / EVENTS_FILE)]
    assert found == [(1, "loss > 1"), (2, "evaluate/wiki/loss - loss > 1")]


def test_a_rule_about_nothing_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="firstlight")
    raised(tmp_path, AlertConfig(when="lossy > 4"), [1, 2, 3, 4])
    assert caplog.text.count("'lossy > 4' is never judged, for no record has lossy") == 1
    raised(tmp_path, AlertConfig(when="evaluate/wikki/loss > 4"), [1, 2])
    assert caplog.text.count("for no record has evaluate/wikki/loss") == 1


def test_a_command_gets_the_alert_as_json_and_no_shell(tmp_path: Path) -> None:
    target = tmp_path / "said; touch hacked"
    command = (sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())", str(target))
    raised(tmp_path, AlertConfig(when="loss > 4", command=command), [5])
    said = json.loads(target.read_text())
    assert (said["step"], said["when"], said["loss"], said["run"]) == (1, "loss > 4", 5, "run")


def test_a_command_that_fails_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="firstlight")
    command = (sys.executable, "-c", "import sys; sys.exit('no such pager')")
    raised(tmp_path, AlertConfig(when="loss > 4", command=command), [5])
    raised(tmp_path, AlertConfig(when="loss > 4", command=(str(tmp_path / "absent"),)), [5])
    assert "ended with exit code 1: no such pager" in caplog.text
    assert "the command failed" in caplog.text


def test_a_webhook_is_posted_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="firstlight")
    bodies = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Keep) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/secret"
        raised(tmp_path, AlertConfig(when="loss > 4", webhook=address), [5])
    assert [body["when"] for body in bodies] == ["loss > 4"]
    raised(tmp_path, AlertConfig(when="loss > 4", webhook=address), [5])
    assert "the webhook failed" in caplog.text
    assert "secret" not in caplog.text
