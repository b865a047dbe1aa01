"""Errors that would pass unseen fail the test."""

import subprocess
import sys
from pathlib import Path

import pytest

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
