"""What the supervisors of several nodes say to each other: lines of JSON, each signed with the job's token.

A line counts only with the HMAC of its text, of what both ends have made up for this connection and of its place in it.
So a stranger's line, one of another job and one that was heard before are refused, and change nothing.
"""

import hashlib
import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from firstlight.base.errors import FirstlightError, InputError
from firstlight.base.log import get_logger

TOKEN_FILE = "job-token"
"""In the run's folder, which all nodes reach and other users do not read."""

_MAX_BYTES = 1 << 22
_TOKEN_BYTES = 32
_GREETING_SECONDS = 5.0
"""What a connection has to show that it knows the token."""
_QUIET_SECONDS = 60.0
"""After which a caller, who has something to say four times a second, is taken for gone."""


class NoAnswer(FirstlightError):
    """The other end is not there, is silent, or does not know the token."""


def job_token(folder: Path) -> bytes:
    """The secret of the run in `folder`, made by the node that comes first. Raises InputError."""
    path, aside = folder / TOKEN_FILE, folder / f"{TOKEN_FILE}-{secrets.token_hex(8)}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(_TOKEN_BYTES))
            with suppress(FileExistsError):  # another node was faster
                os.link(aside, path)
            aside.unlink()
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"training.output_folder = {folder} cannot be used by several nodes: {error}") from None


class Line:
    """One end of a connection. Raises NoAnswer where the other end does not keep to the form."""

    def __init__(self, connection: socket.socket, token: bytes, *, is_listener: bool) -> None:
        self._connection, self._token = connection, token
        self._me, self._other = ("listener", "caller") if is_listener else ("caller", "listener")
        self._rest = b""
        self._num_sent = self._num_received = 0
        mine = secrets.token_hex(16)
        self._write({"challenge": mine})
        theirs = str(self._read(time.monotonic() + _GREETING_SECONDS).get("challenge"))
        self._challenges = f"{mine} {theirs}" if is_listener else f"{theirs} {mine}"

    def send(self, message: Mapping[str, Any]) -> None:
        """Say something."""
        text = json.dumps(message)
        self._write({"hmac": self._mac(self._me, self._num_sent, text), "text": text})
        self._num_sent += 1

    def receive(self, seconds: float) -> dict[str, Any]:
        """What the other end says next, within `seconds`."""
        line = self._read(time.monotonic() + seconds)
        text, mac = str(line.get("text")), str(line.get("hmac"))
        if not hmac.compare_digest(mac.encode(), self._mac(self._other, self._num_received, text).encode()):
            raise NoAnswer("it does not know the job's token")
        self._num_received += 1
        return _object(text.encode())

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _mac(self, who: str, number: int, text: str) -> str:
        signed = f"{who} {self._challenges} {number}\n{text}".encode()
        return hmac.new(self._token, signed, hashlib.sha256).hexdigest()

    def _write(self, line: Mapping[str, str]) -> None:
        try:
            self._connection.sendall(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise NoAnswer(f"it is gone ({error})") from None

    def _read(self, end: float) -> dict[str, Any]:
        while b"\n" not in self._rest:
            if len(self._rest) > _MAX_BYTES:
                raise NoAnswer("it says too much")
            try:
                self._connection.settimeout(max(end - time.monotonic(), 0.001))
                received = self._connection.recv(1 << 16)
            except OSError as error:
                raise NoAnswer(f"it is silent or gone ({error})") from None
            if not received:
                raise NoAnswer("it has hung up")
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        return _object(line)


def call(address: str, token: bytes, seconds: float) -> Line:
    """A connection to a listener at `host:port`. Raises NoAnswer, and ConnectionRefusedError where nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        connection = socket.create_connection((host, int(port)), timeout=seconds)
    except ConnectionRefusedError:
        raise
    except OSError as error:
        raise NoAnswer(f"it cannot be reached ({error})") from None
    return Line(connection, token, is_listener=False)


class Listener:
    """Answers every line that carries the token, each connection in a thread of its own; `gone` hears of its end."""

    def __init__(
        self,
        listening: socket.socket,
        token: bytes,
        answer: Callable[[dict[str, Any]], dict[str, Any]],
        gone: Callable[[dict[str, Any]], None],
    ) -> None:
        self._listening, self._token = listening, token
        self._answer, self._gone = answer, gone
        self._has_warned = False
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="listener", daemon=True).start()

    def close(self) -> None:
        """Hear nobody any more."""
        for one in (self._listening, *list(self._connections)):
            with suppress(OSError):  # it may be closed already
                one.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, place = self._listening.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(connection, str(place[0])), daemon=True).start()

    def _serve(self, connection: socket.socket, host: str) -> None:
        last: dict[str, Any] | None = None
        self._connections.add(connection)
        try:
            line = Line(connection, self._token, is_listener=True)
            seconds = _GREETING_SECONDS
            while True:
                last, seconds = line.receive(seconds), _QUIET_SECONDS
                line.send(self._answer(last))
        except NoAnswer as error:
            if last is None:
                self._warn(host, error)
        finally:
            self._connections.discard(connection)
            connection.close()
            if last is not None:
                self._gone(last)

    def _warn(self, host: str, error: NoAnswer) -> None:
        """Once: who tries a thousand times shall not fill the log."""
        if not self._has_warned:
            self._has_warned = True
            get_logger().warning(f"a connection from {host} is refused: {error}; others will be without a word")


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise NoAnswer("it does not speak JSON") from None
    if not isinstance(found, dict):
        raise NoAnswer("it does not speak in JSON objects")
    return found
