"""The newest figures of a run in Prometheus's text format, on the loopback address.

Format: https://prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4.
"""

import math
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from firstlight.base.log import get_logger
from firstlight.observe.record import RankTable, Record

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LOOPBACK = "127.0.0.1"


class Prometheus:
    """A sink that answers whoever asks; a figure keeps its last value."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._figures: dict[str, float] = {}
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """Where it listens; the configured port before `open`."""
        return self._port if self._server is None else int(self._server.server_address[1])

    def open(self, _step: int, /) -> None:
        """Listen. Raises OSError when the port is taken."""
        sink = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sink.answer(self)

            def log_message(self, _format: str, *_values: object) -> None:
                """Scrapes are no news."""

        self._server = ThreadingHTTPServer((_LOOPBACK, self._port), Answer)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="prometheus", daemon=True).start()
        get_logger().info("metrics for Prometheus: http://%s:%d/metrics", _LOOPBACK, self.port)

    def write_step(self, record: Record, /) -> None:
        """Show a step's figures from now on."""
        self._figures = {**self._figures, **record}

    def write_evaluation(self, record: Record, /) -> None:
        """Show an evaluation's figures from now on."""
        self.write_step({name: value for name, value in record.items() if name.startswith("evaluate/")})

    def write_ranks(self, _step: int, _table: RankTable, /) -> None:
        """Not shown: the records have the slowest rank."""

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        if request.path != "/metrics":
            request.send_error(404, "only /metrics is here")
            return
        body = exposition(self._figures).encode()
        request.send_response(200)
        request.send_header("Content-Type", CONTENT_TYPE)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


def exposition(figures: Record) -> str:
    """Gauges called firstlight_<name>, with "_" for what a name may not have: `expert_load/max_vio` is
    `firstlight_expert_load_max_vio`."""
    lines = []
    for name, value in figures.items():
        gauge = "firstlight_" + re.sub(r"[^A-Za-z0-9_]", "_", name)
        lines += [f"# TYPE {gauge} gauge", f"{gauge} {_number(value)}"]
    return "".join(line + "\n" for line in lines)


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return repr(float(value)) if math.isfinite(value) else ("+Inf" if value > 0 else "-Inf")
