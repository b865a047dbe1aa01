"""Errors that would pass unseen fail the test, and no test fails because a day ends."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import running
from tests.web_process import ROOT

FAILING = {
    "a thread": "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()",
    "an object that goes": "type('Gone', (), {'__del__': lambda self: 1 / 0})()",
}


@pytest.mark.parametrize("statement", FAILING.values(), ids=FAILING)
def test_an_exception_that_nobody_catches_fails_the_test(tmp_path: Path, statement: str):
    (tmp_path / "test_it.py").write_text(f"import threading\ndef test_it():\n    {statement}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]

    done = subprocess.run([*command, "test_it.py"], cwd=tmp_path, check=False, capture_output=True, text=True)

    assert "1 failed" in done.stdout, done.stdout
    assert "ZeroDivisionError" in done.stdout


@pytest.mark.parametrize(
    ("now", "begins"),
    [
        (datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2032, 1, 1, tzinfo=UTC)),
        (datetime(2031, 12, 31, 23, 58, tzinfo=UTC), datetime(2031, 12, 31, 23, 58, tzinfo=UTC)),
    ],
)
def test_no_test_begins_just_before_midnight(monkeypatch: pytest.MonkeyPatch, now: datetime, begins: datetime):
    clock = [now]
    monkeypatch.setattr(running, "utc_now", lambda: clock[-1])
    sleep = SimpleNamespace(sleep=lambda seconds: clock.append(clock[-1] + timedelta(seconds=seconds)))
    monkeypatch.setattr(running, "time", sleep)
    running.pytest_runtest_setup()
    assert clock[-1] == begins
