"""The report as a page that follows its run: served on the loopback address, and asking there for what is new."""

import hashlib
import html
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from firstlight.base.errors import InputError
from firstlight.observe.charts import axes, charts
from firstlight.observe.events import EVENTS_FILE, FAULTS_FILE
from firstlight.observe.history import FACTS_FILE, SAMPLE_FILE, History, read_histories, thinned
from firstlight.observe.jsonl import METRICS_FILE
from firstlight.observe.legend import legend
from firstlight.observe.page import LivePart
from firstlight.observe.report import essentials, report_page, rest

LOOPBACK = "127.0.0.1"
MOST_RECORDS = 2000
"""Of a run, evenly chosen; more would make a page slow that is drawn again and again."""

_POLICY = "; connect-src 'self'"
_ASKED_EVERY_MS = 2000
_SCRIPT = """
const following = { version: document.body.dataset.version || "", failures: 0 };
const quiet = document.createElement("p");
quiet.id = "following"; quiet.className = "note"; quiet.textContent = "following the run";
document.querySelector("header").append(quiet);
async function follow() {
  try {
    const answer = await fetch("/state?since=" + encodeURIComponent(following.version));
    if (answer.status === 200) show(await answer.json());
    following.failures = 0;
    quiet.textContent = "following the run; asked " + new Date().toLocaleTimeString();
  } catch (error) {
    following.failures += 1;
    quiet.textContent = "firstlight watch does not answer; what is below is from " + (following.at || "the start");
  }
  setTimeout(follow, Math.min(%d * (1 + following.failures), 30000));
}
function show(state) {
  following.version = state.version;
  following.at = new Date().toLocaleTimeString();
  const panels = new Map([...document.querySelectorAll("[data-chart]")].map(one => [one.dataset.chart, one]));
  const fits = state.charts.length === panels.size && state.charts.every(one => panels.has(one.title)
    && panels.get(one.title).querySelector(".js-plotly-plot").data.length === one.data.length);
  if (!fits) { location.reload(); return; }
  Object.assign(axes, state.axes);
  for (const one of state.charts) {
    const panel = panels.get(one.title);
    const plot = panel.querySelector(".js-plotly-plot");
    one.data.forEach((trace, index) => { if (plot.data[index].visible === false) trace.visible = false; });
    if (plot.layout.dragmode === false) one.layout.dragmode = false;
    Plotly.react(plot, one.data, one.layout);
  }
  draw();
  document.getElementById("essentials").innerHTML = state.essentials;
  const rest = document.getElementById("rest");
  const wasOpen = [...rest.querySelectorAll("details[open] > summary")].map(one => one.textContent);
  rest.innerHTML = state.rest;
  for (const one of rest.querySelectorAll("summary"))
    if (wasOpen.includes(one.textContent)) one.parentElement.open = true;
  document.body.dataset.step = state.step;
}
setTimeout(follow, %d);
""" % (_ASKED_EVERY_MS, _ASKED_EVERY_MS)  # noqa: UP031  # braces are JavaScript's

_WAITING = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Firstlight</title>
<style>:root { color-scheme: light dark } body { font-family: system-ui, sans-serif; margin: 15vh auto; max-width: 40em;
padding: 0 1em }</style></head><body><p>%s</p></body></html>
"""


class Following:
    """The state of run folders, read anew when their files have changed."""

    def __init__(self, runs: list[Path]) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._version = ""
        self._histories: list[History] = []

    def version(self) -> str:
        """Changes whenever a file does that the page is made of."""
        return hashlib.sha256("\n".join(_stamps(self._runs)).encode()).hexdigest()[:16]

    def histories(self) -> tuple[str, list[History]]:
        """The version and the runs. Raises InputError while there is no record yet."""
        with self._lock:
            version = self.version()
            if version != self._version:
                self._histories = [thinned(run, MOST_RECORDS) for run in read_histories(self._runs)]
                self._version = version
            return self._version, self._histories

    def page(self) -> str:
        """The page as it stands now, or one that says what it waits for."""
        try:
            version, histories = self.histories()
        except InputError as error:
            return _WAITING % html.escape(str(error))
        text = report_page(histories, LivePart(policy=_POLICY, script=_SCRIPT))
        return text.replace("<body>", f'<body data-version="{version}" data-step="{_step(histories)}">', 1)

    def state(self) -> dict[str, object]:
        """What has changed on the page: charts, positions, numbers and the rest."""
        version, histories = self.histories()
        return {
            "version": version,
            "step": _step(histories),
            "essentials": essentials(histories),
            "rest": rest(histories),
            "axes": axes(histories),
            "charts": [
                {"title": chart.title, "legend": legend(chart.figure), **json.loads(chart.figure.to_json())}
                for chart in charts(histories)
            ],
        }


@contextmanager
def served(runs: list[Path], port: int) -> Iterator[str]:
    """Serve the page of `runs` for the length of the block; its address. Port 0 takes a free one.

    Only this machine can ask, and only under the name of its own address. Raises InputError when the port is taken.
    """
    following = Following(runs)
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), _answer_with(following))
    except OSError as error:
        raise InputError(f"--port {port}: {error.strerror or error}; use another one, or 0 for any") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="watch", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer_with(following: Following) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # another site's page, under a name that leads here, has no business with the run
            if self.headers.get("Host", "").rpartition(":")[0] not in (LOOPBACK, "localhost"):
                self.send_error(403, "only as 127.0.0.1 or localhost")
                return
            parts = urlsplit(self.path)
            if parts.path == "/":
                self._send("text/html; charset=utf-8", following.page)
            elif parts.path == "/state":
                self._send_state(parse_qs(parts.query).get("since", [""])[0])
            else:
                self.send_error(404)

        def _send_state(self, since: str) -> None:
            if since == following.version():
                self.send_response(204)
                self.end_headers()
                return
            try:
                self._send("application/json", lambda: json.dumps(following.state(), allow_nan=False))
            except InputError as error:
                self.send_error(503, str(error)[:200])

        def _send(self, content_type: str, make: Callable[[], str]) -> None:
            body = make().encode()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, _format: str, *_values: object) -> None:
            """Requests are no news."""

    return Answer


def _stamps(runs: list[Path]) -> Iterator[str]:
    for run in runs:
        fixed = [run / name for name in (METRICS_FILE, EVENTS_FILE, FAULTS_FILE, FACTS_FILE, SAMPLE_FILE)]
        for path in [*fixed, *sorted(run.glob("sample-*.txt"))]:
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            yield f"{path} {stat.st_mtime_ns} {stat.st_size}"


def _step(histories: list[History]) -> int:
    return max(int(run.steps[-1]["step"]) for run in histories)
