"""Supervisors hear only who knows the token of the job; nothing else has an effect."""

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from firstlight.launch.channel import Line, Listener, NoAnswer, call, job_token

TOKEN = b"of this job"


@dataclass(kw_only=True)
class Ear:
    """A listener on loopback, and what it has heard."""

    address: str
    heard: list[dict[str, Any]] = field(default_factory=list)

    def raw(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=10)


@pytest.fixture
def ear() -> Iterator[Ear]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    made = Ear(address=f"127.0.0.1:{listening.getsockname()[1]}")

    def answer(message: dict[str, Any]) -> dict[str, Any]:
        made.heard.append(message)
        return {"number": len(made.heard)}

    listener = Listener(listening, TOKEN, answer, lambda _last: None)
    yield made
    listener.close()


def test_who_knows_the_token_is_answered(ear: Ear) -> None:
    line = call(ear.address, TOKEN, 5)
    for number in (1, 2):
        line.send({"hello": number})
        assert line.receive(5) == {"number": number}
    line.close()
    assert ear.heard == [{"hello": 1}, {"hello": 2}]


def test_another_token_is_refused(ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    line = call(ear.address, b"another", 5)
    line.send({"hello": 1})
    with pytest.raises(NoAnswer):
        line.receive(5)
    assert ear.heard == []
    assert "a connection from 127.0.0.1 is refused: it does not know the job's token" in caplog.text


def test_what_was_heard_before_is_refused(ear: Ear) -> None:
    """Bytes of a line that counted, sent again: in its own connection and in another one."""
    said: list[bytes] = []

    class Heard(socket.socket):
        def sendall(self, data: Any, flags: int = 0) -> None:
            said.append(bytes(data))
            super().sendall(data, flags)

    host, _, port = ear.address.rpartition(":")
    connection = Heard()
    connection.connect((host, int(port)))
    line = Line(connection, TOKEN, is_listener=False)
    line.send({"hello": 1})
    line.receive(5)
    connection.sendall(said[1])
    with pytest.raises(NoAnswer):
        line.receive(5)
    with ear.raw() as again:
        again.sendall(said[0] + said[1])
        while again.recv(1 << 16):
            pass
    assert ear.heard == [{"hello": 1}]


def test_garbage_has_no_effect(ear: Ear) -> None:
    source = random.Random(0)
    frames = [source.randbytes(source.randrange(1, 200)) + b"\n" for _ in range(150)]
    frames += [json.dumps(one).encode() + b"\n" for one in ([], 1, {"text": 1}, {"hmac": "", "text": "{}"}, "\u00e9")]
    frames.append(b"[" * 100_000 + b"\n")
    for frame in frames:
        with ear.raw() as connection:
            connection.sendall(b'{"challenge": "x"}\n' + frame)
            connection.shutdown(socket.SHUT_WR)
    line = call(ear.address, TOKEN, 5)
    line.send({"hello": 1})
    assert line.receive(5) == {"number": 1}
    line.close()
    assert ear.heard == [{"hello": 1}]


def test_the_token_is_made_once_and_for_its_user_alone(tmp_path: Any) -> None:
    token = job_token(tmp_path / "run")
    assert job_token(tmp_path / "run") == token
    assert len(token) == 64
    assert (tmp_path / "run" / "job-token").stat().st_mode & 0o077 == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["job-token"]
