"""Running the stand-in as a process of its own, for tests and benchmarks."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from requests import Response, Session

from sandbox.stack.processes import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 20.0
STOP_SECONDS = 5.0
CONTROL_TIMEOUT_SECONDS = 70.0


class GeminiStandIn:
    """A running stand-in. Any `api_key` works that does not begin with `invalid`."""

    api_key = "sandbox-key"

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._session = Session()
        self._session.trust_env = False

    def behave(self, **fields: Any) -> None:
        """Treat every request so: `behave(status=503, times=2)`, `behave(hang=True)`."""
        self._control("PUT", "/sandbox/behaviour", json=fields)

    def reset(self) -> None:
        """Answer normally again; hanging requests go on to a normal answer."""
        self._control("DELETE", "/sandbox/behaviour")

    def requests(self) -> list[dict[str, Any]]:
        """Return the last requests, oldest first; see `sandbox.gemini.app._seen` for their fields."""
        seen: list[dict[str, Any]] = self._control("GET", "/sandbox/requests").json()["requests"]
        return seen

    def clear_requests(self) -> None:
        """Forget the requests and the counts."""
        self._control("DELETE", "/sandbox/requests")

    def stats(self) -> dict[str, int]:
        """Return `{calls, in_flight, max_in_flight}`."""
        return self._stats({})

    def wait_for(self, *, timeout: float = 10.0, **conditions: int) -> dict[str, int]:
        """Wait for `calls_at_least`, `in_flight_at_least` or `in_flight_at_most`.

        timeout: seconds. Returns the counts; raises TimeoutError when they have not come to it by then.
        """
        counts = self._stats({**conditions, "timeout": timeout})
        for name, number in conditions.items():
            counter, _, direction = name.partition("_at_")
            if counts[counter] < number if direction == "least" else counts[counter] > number:
                raise TimeoutError(f"The stand-in did not reach {name}={number}: {counts}")
        return counts

    def _stats(self, query: dict[str, Any]) -> dict[str, int]:
        counts: dict[str, int] = self._control("GET", "/sandbox/stats", params=query).json()
        return counts

    def _control(self, method: str, path: str, **options: Any) -> Response:
        response = self._session.request(method, self.url + path, timeout=CONTROL_TIMEOUT_SECONDS, **options)
        if response.status_code == 400:
            raise ValueError(response.json()["error"]["message"])
        response.raise_for_status()
        return response


@contextlib.contextmanager
def running_gemini_stand_in(
    *, port: int | None = None, pace: float = 0.0, delay: float = 0.0
) -> Iterator[GeminiStandIn]:
    """Start a stand-in on a free port, wait until it answers, and end it afterwards.

    pace, delay: seconds between a stream's words and before every answer.
    Raises RuntimeError when it does not come up within 20 s.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "sandbox.gemini", "--port", str(port)]
    command += ["--pace", str(pace), "--delay", str(delay)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        _wait_until_healthy(process, port)
        yield GeminiStandIn(process, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            if b" 200 " in client.recv(64):
                return
        time.sleep(0.02)
    raise RuntimeError(f"The Gemini stand-in did not start on port {port} (exit code {process.poll()}).")
