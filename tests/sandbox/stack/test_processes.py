"""The stack's processes: one log, watched together, stopped in order."""

import signal
import sys
import time
from io import StringIO

import pytest

from sandbox.stack.processes import Processes, wait_until
from sandbox.stack.run import StopSignals

_POLITE = """
import os, signal, sys, time
def end(*_):
    os.write(1, b"finishing\\n")  # print may be at work already
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("started", flush=True)
time.sleep(60)
"""
_DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("started", flush=True)
time.sleep(60)
"""


@pytest.fixture
def log() -> StringIO:
    return StringIO()


@pytest.fixture
def processes(log: StringIO) -> Processes:
    return Processes(lost_output=lambda: None, output=log)


def test_each_line_names_its_process_and_the_last_words_are_heard(processes: Processes, log: StringIO):
    processes.start("worker", [sys.executable, "-c", _POLITE], {})
    assert wait_until(lambda: "started" in log.getvalue(), seconds=10)

    processes.stop(["worker"], hurried=lambda: False)

    assert "worker   | finishing" in log.getvalue()
    assert processes.ended() is None


def test_a_process_that_ends_by_itself_is_named(processes: Processes):
    processes.start("beat", ["sh", "-c", "exit 3"], {})

    assert wait_until(lambda: processes.ended() is not None, seconds=20)
    assert processes.ended() == "beat has stopped unexpectedly (exit code 3)"
    processes.stop(["beat"], hurried=lambda: False)


def test_hurrying_kills_what_does_not_listen(processes: Processes, log: StringIO):
    processes.start("web", [sys.executable, "-c", _DEAF], {})
    assert wait_until(lambda: "started" in log.getvalue(), seconds=10)
    began = time.monotonic()

    processes.stop(["web"], hurried=lambda: time.monotonic() > began + 0.3)

    assert time.monotonic() - began < 5


def test_a_second_signal_hurries_but_an_echo_of_the_first_does_not(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        stop = StopSignals()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert (stop.requested, stop.hurried) == (True, False)

        later = time.monotonic() + 5
        monkeypatch.setattr("sandbox.stack.run.time.monotonic", lambda: later)
        signal.raise_signal(signal.SIGHUP)
        assert not stop.hurried
        signal.raise_signal(signal.SIGINT)
        assert stop.hurried
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
