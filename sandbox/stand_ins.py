"""The stand-ins for Gemini and Stripe as processes, which tests and benchmarks start and steer.

sandbox/README.md lists the routes behind the methods.
"""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from sandbox.serving import serving_command
from sandbox.stack import processes
from sandbox.stack.processes import ROOT, comes_up, direct_session, free_port

START_SECONDS = 20.0
STOP_SECONDS = 5.0
CALL_TIMEOUT_SECONDS = 70.0
FAST_RETRIES = [0.05, 0.1, 0.2, 0.4]


class _Process:
    """A stand-in's process, which answers at `url`."""

    def __init__(self, factory: str, **options: object) -> None:
        """Start it on a free port and wait until it answers. Raises RuntimeError if it does not within 20 s."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._session = direct_session()
        command = serving_command(factory, port=port, **options)
        self.process = processes.spawn(command, output=subprocess.DEVNULL, errors=None, cwd=ROOT)
        if not comes_up(self.process, self._is_healthy, seconds=START_SECONDS):
            self.stop()
            raise RuntimeError(f"{factory} did not start on port {port} (exit code {self.process.poll()}).")

    def _is_healthy(self) -> bool:
        try:
            return self._session.get(f"{self.url}/healthz", timeout=2).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """Stop it, even if calls hang."""
        self._session.close()
        processes.stop(self.process, signal.SIGTERM, seconds=STOP_SECONDS)

    def _control(self, method: str, route: str, **options: Any) -> requests.Response:
        return self._session.request(method, f"{self.url}/sandbox{route}", timeout=CALL_TIMEOUT_SECONDS, **options)


class GeminiStandIn(_Process):
    """A running stand-in for Gemini. Any API key works unless it begins with `invalid`."""

    api_key = "sandbox-key"

    def behave(self, **fields: Any) -> None:
        """Treat every request alike: `behave(status=503, times=2)`, `behave(hang=True)`. Raises ValueError."""
        response = self._control("PUT", "/behaviour", json=fields)
        if response.status_code == requests.codes.bad_request:
            raise ValueError(response.json()["error"]["message"])
        response.raise_for_status()

    def reset(self) -> None:
        """Answer normally again. Hanging requests get a normal answer too."""
        self._control("DELETE", "/behaviour").raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """Return the last requests, oldest first; see `sandbox.gemini.app._seen` for their fields."""
        seen: list[dict[str, Any]] = self._control("GET", "/requests").json()["requests"]
        return seen

    def clear_requests(self) -> None:
        """Forget the requests and the counts."""
        self._control("DELETE", "/requests").raise_for_status()

    def stats(self) -> dict[str, int]:
        """Return `{calls, in_flight, max_in_flight}`."""
        return self.wait_for()

    def wait_for(self, *, timeout: float = 10.0, **conditions: int) -> dict[str, int]:
        """Wait for `in_flight_at_least` or `in_flight_at_most`.

        timeout: seconds. Returns the counts. Raises TimeoutError if the condition does not hold by then.
        """
        query = {**conditions, "timeout": timeout}
        counts: dict[str, int] = self._control("GET", "/stats", params=query).json()
        for name, number in conditions.items():
            counter, _, direction = name.partition("_at_")
            if counts[counter] < number if direction == "least" else counts[counter] > number:
                raise TimeoutError(f"The stand-in did not reach {name}={number}: {counts}")
        return counts


class RunningStandIn(_Process):
    """A running stand-in for Stripe. A refused call raises requests.HTTPError."""

    def call(self, verb: str, route: str, body: Any = None, **params: Any) -> Any:
        """Call the control API. route: what follows `/sandbox`."""
        answer = self._control(verb, route, json=body, params=params)
        answer.raise_for_status()
        return answer.json()

    def behave(self, **fields: Any) -> None:
        """Fail calls: `behave(path="/v1/checkout", status=500, times=1)`. Without arguments, answer normally."""
        self.call("PUT", "/behaviour", fields)

    def wait_held(self, timeout_seconds: float = 10) -> None:
        """Wait until a call is on hold; `behave()` releases it. Raises TimeoutError."""
        if not self.call("POST", "/behaviour/wait", {"timeout": timeout_seconds})["held"]:
            raise TimeoutError("No call to the stand-in is on hold.")

    def reset(self) -> None:
        """Forget everything and return to the initial settings, but with quick retries."""
        self.call("POST", "/reset")
        self.webhooks(retry_delays=FAST_RETRIES)

    def checkout(self, session_id: str, action: str) -> Any:
        """Act on a session: pay, decline, expire, pay_async, async_succeed, async_fail. Returns `{session, events}`."""
        return self.call("POST", f"/checkout/{session_id}/{action}")

    def pay(self, session_id: str) -> Any:
        """Pay. Returns the session as it is afterwards."""
        return self.checkout(session_id, "pay")["session"]

    def act(self, subscription_id: str, action: str, **options: Any) -> Any:
        """Do something with a subscription. Returns the subscription as it is afterwards."""
        return self.call("POST", f"/subscriptions/{subscription_id}/{action}", options)["subscription"]

    def webhooks(self, **changes: Any) -> Any:
        """Change `url`, `secret` or `retry_delays`. Returns `{configured: true}`."""
        return self.call("PUT", "/webhooks", changes)

    def wait_delivered(self, timeout_seconds: float = 10) -> None:
        """Wait until nothing is left to send. Raises TimeoutError."""
        if not self.call("POST", "/webhooks/wait", {"timeout": timeout_seconds})["idle"]:
            raise TimeoutError("The stand-in still has webhooks to deliver.")

    def events(self, *types: str) -> list[dict[str, Any]]:
        """Return the events, oldest first, with `id`, `type`, `event`, `payload`, `delivery`, `attempts`."""
        return list(self.call("GET", "/events", type=list(types))["events"])

    def make_event(self, kind: str, **fields: Any) -> Any:
        """Make an event of any type, without sending it. fields: `object` or `object_id`, `api_version`."""
        return self.call("POST", "/events", fields | {"type": kind})

    def signed(self, event_id: str) -> Any:
        """Return an event's `payload` and `headers`, for the caller to deliver."""
        return self.call("GET", f"/events/{event_id}/signed")

    def requests(self, path: str = "", method: str = "") -> list[dict[str, Any]]:
        """Return the calls under /v1, oldest first, with `method`, `path`, `params`, `idempotency_key`, …"""
        return list(self.call("GET", "/requests", path=path, method=method)["requests"])


@contextmanager
def running_gemini_stand_in(*, pace: float = 0.0) -> Iterator[GeminiStandIn]:
    """Run a stand-in for Gemini during the block. pace: seconds between a stream's words. Raises RuntimeError."""
    stand_in = GeminiStandIn("sandbox.gemini.app:create_app", pace=pace)
    try:
        yield stand_in
    finally:
        stand_in.stop()


@contextmanager
def running_stripe_stand_in(
    *, webhook_url: str = "", webhook_secret: str = "whsec_sandbox", state: Path | None = None
) -> Iterator[RunningStandIn]:
    """Run a stand-in for Stripe during the block, with quick retries of webhooks. Raises RuntimeError.

    state: the file in which it keeps its state; None to keep it only in memory.
    """
    options = {"webhook_url": webhook_url, "webhook_secret": webhook_secret, "state_file": str(state or "")}
    stand_in = RunningStandIn("sandbox.stripe.app:create_app", **options)
    try:
        stand_in.webhooks(retry_delays=FAST_RETRIES)
        yield stand_in
    finally:
        stand_in.stop()
