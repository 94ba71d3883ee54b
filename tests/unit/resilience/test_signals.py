"""The first signal is remembered, a second one ends the process, and afterwards all is as it was."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from firstlight.resilience.signals import SAME_REQUEST_SECONDS, STOP_SIGNALS, StopRequest
from tests.runs import environment

both_signals = pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: signal.Signals(number).name)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """A test that fails leaves no handler behind."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_terminate_and_user_1_are_requests() -> None:
    assert set(STOP_SIGNALS) == {signal.SIGTERM, signal.SIGUSR1}


@both_signals
def test_a_signal_is_remembered(number: int) -> None:
    request = StopRequest()
    with request.listening():
        assert request.signal_name is None
        os.kill(os.getpid(), number)
        assert request.signal_name == signal.Signals(number).name
    assert request.signal_name == signal.Signals(number).name


@both_signals
def test_a_second_signal_ends_the_process(number: int) -> None:
    times = iter((100.0, 100.0 + SAME_REQUEST_SECONDS, 101.0 + SAME_REQUEST_SECONDS))
    request = StopRequest(clock=lambda: next(times))
    with request.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)  # comes along with the first
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number


def test_the_handlers_before_come_back() -> None:
    received: list[int] = []
    handler = lambda number, _frame: received.append(number)  # noqa: E731
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
    with contextlib.suppress(ZeroDivisionError), StopRequest().listening():
        assert all(signal.getsignal(number) is not handler for number in STOP_SIGNALS)
        raise ZeroDivisionError
    assert all(signal.getsignal(number) is handler for number in STOP_SIGNALS)
    os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_outside_the_block_a_signal_does_what_it_always_does() -> None:
    program = """
import os, signal
from firstlight.resilience.signals import StopRequest
with StopRequest().listening():
    os.kill(os.getpid(), signal.SIGTERM)
print("listened", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("not reached")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "listened\n"
    assert done.returncode == -signal.SIGTERM
