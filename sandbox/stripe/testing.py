"""Run the stand-in from a test, and tell it what to do."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from sandbox.stack.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 20
STOP_SECONDS = 5
CALL_TIMEOUT_SECONDS = 40
FAST_RETRIES = [0.05, 0.1, 0.2, 0.4]


class RunningStandIn:
    """A running stand-in. `url` is the address of the API; a refused call raises requests.HTTPError."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self.url, self.process = url, process
        self._session = requests.Session()
        self._session.trust_env = False

    def call(self, verb: str, route: str, body: Any = None, **params: Any) -> Any:
        """Call the control API; route: what follows `/sandbox`."""
        answer = self._session.request(
            verb,
            f"{self.url}/sandbox{route}",
            json=body,
            params={name: value for name, value in params.items() if value is not None},
            timeout=CALL_TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        return answer.json()

    def behave(self, *behaviours: dict[str, Any], **fields: Any) -> None:
        """Misbehave, e.g. `behave(path="/v1/checkout", status=500, times=1)`; nothing given: behave again."""
        every = [*behaviours, *([fields] if fields else [])]
        self.call("PUT", "/behaviour", every)

    def wait_held(self, timeout_seconds: float = 10) -> None:
        """Wait until a call is on hold; `behave()` lets it go on. Raises TimeoutError."""
        if not self.call("POST", "/behaviour/wait", {"timeout": timeout_seconds})["held"]:
            raise TimeoutError("No call to the stand-in is on hold.")

    def reset(self) -> None:
        """Forget everything and go back to the settings of the start, with quick retries."""
        self.call("POST", "/reset")
        self.webhooks(retry_delays=FAST_RETRIES)

    def checkout(self, session_id: str, action: str) -> Any:
        """pay, decline, cancel, expire, pay_async, async_succeed, async_fail: `{session, events}`."""
        return self.call("POST", f"/checkout/{session_id}/{action}")

    def pay(self, session_id: str) -> Any:
        """Pay; the session as it is then."""
        return self.checkout(session_id, "pay")["session"]

    def act(self, subscription_id: str, action: str, **options: Any) -> Any:
        """Do something with a subscription; the subscription as it is then."""
        return self.call("POST", f"/subscriptions/{subscription_id}/{action}", options)["subscription"]

    def webhooks(self, **changes: Any) -> Any:
        """Change url, secret, mode, enabled_events, retry_delays; the settings and what is waiting."""
        return self.call("PUT", "/webhooks", changes)

    def wait_delivered(self, timeout_seconds: float = 10) -> None:
        """Wait until nothing is left to send. Raises TimeoutError."""
        if not self.call("POST", "/webhooks/wait", {"timeout": timeout_seconds})["idle"]:
            raise TimeoutError("The stand-in still has webhooks to deliver.")

    def events(self, *types: str) -> list[dict[str, Any]]:
        """The events made, oldest first: `id`, `type`, `event`, `payload`, `delivery`, `attempts`."""
        return list(self.call("GET", "/events", type=list(types) or None)["events"])

    def make_event(self, kind: str, **fields: Any) -> Any:
        """Make an event of any type: `object` or `object_id`, `previous`, `api_version`, `send`."""
        return self.call("POST", "/events", fields | {"type": kind})

    def signed(self, event_id: str, timestamp: int | None = None, secret: str | None = None) -> Any:
        """`payload` and `headers` to deliver oneself."""
        return self.call("GET", f"/events/{event_id}/signed", timestamp=timestamp, secret=secret)

    def send_again(self, event_id: str) -> None:
        """Let the stand-in send an event (again)."""
        self.call("POST", f"/events/{event_id}/send")

    def requests(self, path: str = "", method: str = "") -> list[dict[str, Any]]:
        """The calls under /v1, oldest first: `method`, `path`, `params`, `idempotency_key`, …"""
        return list(self.call("GET", "/requests", path=path, method=method)["requests"])

    def stop(self) -> None:
        """End it."""
        self._session.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_stripe_stand_in(
    *,
    webhook_url: str = "",
    webhook_secret: str = "whsec_sandbox",
    state: Path | str | None = None,
    port: int | None = None,
) -> RunningStandIn:
    """Start it on a free port and wait until it answers. Raises RuntimeError when it does not start."""
    port = port or free_port()
    command = [sys.executable, "-m", "sandbox.stripe", "--port", str(port)]
    command += ["--webhook-url", webhook_url, "--webhook-secret", webhook_secret]
    command += ["--state", str(state)] if state else []
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, stdin=subprocess.DEVNULL
    )
    running = RunningStandIn(f"http://127.0.0.1:{port}", process)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.ConnectionError), requests.Session() as session:
            session.trust_env = False
            if session.get(f"{running.url}/healthz", timeout=2).ok:
                return running
        time.sleep(0.05)
    running.stop()
    raise RuntimeError("The Stripe stand-in did not start.")


@contextlib.contextmanager
def running_stripe_stand_in(
    *,
    webhook_url: str = "",
    webhook_secret: str = "whsec_sandbox",
    state: Path | str | None = None,
    port: int | None = None,
) -> Iterator[RunningStandIn]:
    """A running stand-in, ended with the block; webhooks are retried quickly."""
    running = start_stripe_stand_in(webhook_url=webhook_url, webhook_secret=webhook_secret, state=state, port=port)
    try:
        running.webhooks(retry_delays=FAST_RETRIES)
        yield running
    finally:
        running.stop()
