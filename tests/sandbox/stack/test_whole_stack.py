"""`make run` as a person uses it: started, talked to, killed, started again, stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from dotenv import dotenv_values

from sandbox.stack.processes import alive, descendants, free_port, wait_until
from sandbox.stack.run import conversation
from tests.web_process import ROOT

_NOT_COPIED = shutil.ignore_patterns(".*", "var", "tests", "node_modules", "__pycache__")


class RunningStack:
    """A stack in a copy of the checkout, and the processes it has started."""

    def __init__(self, checkout: Path, port: int) -> None:
        self._log = checkout.parent / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sandbox.stack"],
                cwd=checkout,
                env={**os.environ, "PORT": str(port), "WEB_CONCURRENCY": "1"},
                stdout=log,
                stderr=log,
            )
        ready = wait_until(lambda: "is ready" in self.said() or self.process.poll() is not None, seconds=120)
        assert ready, self.said()
        assert self.process.poll() is None, self.said()
        self.family = descendants(self.process.pid)

    def said(self) -> str:
        return self._log.read_text()

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="needs curl and bash")
def test_a_first_conversation_survives_a_kill_and_the_end_leaves_nothing(server_folder: Path):
    checkout = server_folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=_NOT_COPIED)
    port = free_port()
    first = RunningStack(checkout, port)
    try:
        script = f"{conversation(port)}\necho $TOKEN"
        pasted = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, timeout=60)
        *_, answer, token = [line for line in pasted.stdout.splitlines() if line.strip()]
        assert json.loads(answer)["reply"]["status"] == "completed", first.said()
        addresses = dotenv_values(checkout / "var" / "stack.env")
        for name in ("GEMINI_API_ENDPOINT", "STRIPE_API_BASE", "FRONTEND_URL"):
            assert f" {addresses[name]}" in first.said()
    finally:
        first.end(signal.SIGKILL)

    second = RunningStack(checkout, port)
    try:
        assert not any(alive(pid) for pid in first.family)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/chatroom", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as rooms:
            assert [room["title"] for room in json.load(rooms)["items"]] == ["First steps"]
    finally:
        code = second.end(signal.SIGTERM)

    assert code == 0, second.said()
    assert len(second.family) >= 7
    assert not any(alive(pid) for pid in second.family)
    assert (checkout / "var" / "run.lock").read_text() == ""
    assert not (checkout / "var" / "stack.env").exists()
