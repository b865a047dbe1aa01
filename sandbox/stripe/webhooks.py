"""The sender: delivers events to one endpoint, in order, again after failures.

https://docs.stripe.com/webhooks: any 2xx is a success; everything else is tried again with growing pauses.
"""

import heapq
import itertools
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from sandbox.stripe.errors import parameter_invalid
from sandbox.stripe.events import of_types, sign
from sandbox.stripe.store import Json, Store, now

MODES = ("send", "hold", "drop", "duplicate", "shuffle")
DEFAULT_RETRY_DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 3, 20


@dataclass
class Endpoint:
    """Where events go, and how. `hold` keeps them until the mode changes, `drop` loses them for good."""

    url: str = ""
    secret: str = "whsec_sandbox"
    mode: str = "send"
    enabled_events: list[str] = field(default_factory=lambda: ["*"])
    retry_delays: list[float] = field(default_factory=lambda: list(DEFAULT_RETRY_DELAYS))


class Sender:
    """A background thread with a queue of deliveries ordered by the time they are due."""

    def __init__(self, store: Store, endpoint: Endpoint) -> None:
        self._store, self._first = store, endpoint
        self.endpoint = Endpoint(**vars(endpoint))
        self._wake = threading.Condition()
        self._queue: list[tuple[float, int, str, int]] = []  # due, order, event id, attempts so far
        self._order = itertools.count()
        self._held: list[str] = []
        self._sending = ""
        self._session = requests.Session()
        self._session.trust_env = False

    def start(self) -> None:
        """Begin to deliver; what an earlier run left undelivered comes first."""
        with self._store.lock:
            left = [
                record["id"]
                for record in self._store.table("events").values()
                if record["delivery"] in ("new", "pending", "held")
            ]
        self.hand_on(left)
        threading.Thread(target=self._run, name="webhooks", daemon=True).start()

    def hand_on(self, ids: list[str]) -> None:
        """Take a batch of events as the mode says."""
        wanted = self._enabled(ids)
        mode = self.endpoint.mode if self.endpoint.url else "drop"
        if mode == "hold":
            self._mark(wanted, "held")
            with self._wake:
                self._held += wanted
        elif mode == "drop":
            self._mark(wanted, "dropped")
        else:
            if mode == "shuffle":
                random.shuffle(wanted)
            self.send(wanted * (2 if mode == "duplicate" else 1))

    def send(self, ids: list[str]) -> None:
        """Queue deliveries, whatever the mode; an event may be in it several times."""
        self._mark(ids, "pending")
        with self._wake:
            for event_id in ids:
                heapq.heappush(self._queue, (time.monotonic(), next(self._order), event_id, 0))
            self._wake.notify_all()

    def configure(self, changes: Json) -> None:
        """Change fields of the endpoint; events on hold follow the new mode. Raises StripeError."""
        unknown = set(changes) - set(Endpoint.__dataclass_fields__)
        if unknown or changes.get("mode", "send") not in MODES:
            fields = sorted(Endpoint.__dataclass_fields__)
            raise parameter_invalid("mode", f"Fields: {fields}; modes: {MODES}.")
        for name, value in changes.items():
            setattr(self.endpoint, name, value)
        if self.endpoint.mode != "hold":
            with self._wake:
                held, self._held = self._held, []
            self.hand_on(held)

    def reset(self) -> None:
        """Forget what is queued and go back to the first settings."""
        with self._wake:
            self._queue, self._held = [], []
            self.endpoint = Endpoint(**vars(self._first))
            self._wake.notify_all()

    def shown(self) -> Json:
        """The settings without the secret, and what is waiting."""
        settings = {name: value for name, value in vars(self.endpoint).items() if name != "secret"}
        with self._wake:
            return settings | {
                "queued": len(self._queue) + bool(self._sending),
                "held": len(self._held),
            }

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing is queued; whether that came in time."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._queue and not self._sending, timeout_seconds)

    def wait_tried(self, ids: list[str], timeout_seconds: float) -> bool:
        """Wait until each of these was tried at least once, or need not be; whether that came in time."""

        def tried() -> bool:
            records = self._store.table("events")
            return all(
                record["attempts"] or record["delivery"] != "pending"
                for record in (records[event_id] for event_id in ids if event_id in records)
            )

        with self._wake:
            return self._wake.wait_for(tried, timeout_seconds)

    def _run(self) -> None:
        while True:
            with self._wake:
                pause = self._queue[0][0] - time.monotonic() if self._queue else None
                if pause is None or pause > 0:
                    self._wake.wait(pause)
                    continue
                _, _, event_id, tries = heapq.heappop(self._queue)
                self._sending = event_id
            again: float | None = None
            try:
                delivered = self._deliver(event_id)
                again = None if delivered else self._next_pause(tries)
                outcome = "delivered" if delivered else "failed" if again is None else "pending"
                self._mark([event_id], outcome)
            finally:
                with self._wake:
                    if again is not None:
                        due = time.monotonic() + again
                        heapq.heappush(self._queue, (due, next(self._order), event_id, tries + 1))
                    self._sending = ""
                    self._wake.notify_all()

    def _next_pause(self, tries: int) -> float | None:
        delays = self.endpoint.retry_delays
        return delays[tries] if tries < len(delays) else None

    def _deliver(self, event_id: str) -> bool:
        with self._store.lock:
            record = self._store.table("events").get(event_id)
            if record is None:
                return True  # forgotten by a reset
            payload, endpoint = str(record["payload"]), self.endpoint
        attempt: dict[str, Any] = {"at": now(), "status": None}
        try:
            answer = self._session.post(
                endpoint.url,
                data=payload.encode(),
                headers={
                    "Content-Type": "application/json; charset=utf-8",
                    "Stripe-Signature": sign(payload, endpoint.secret),
                    "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
                },
                timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
                allow_redirects=False,
            )
            attempt["status"] = answer.status_code
        except requests.RequestException as error:
            attempt["error"] = type(error).__name__
        with self._store.lock:
            record["attempts"].append(attempt)
        return 200 <= (attempt["status"] or 0) < 300

    def _enabled(self, ids: list[str]) -> list[str]:
        with self._store.lock:
            records = self._store.table("events")
            events = [json.loads(records[event_id]["payload"]) for event_id in ids if event_id in records]
        wanted = [event["id"] for event in of_types(events, self.endpoint.enabled_events)]
        self._mark([event_id for event_id in ids if event_id not in wanted], "not_enabled")
        return wanted

    def _mark(self, ids: list[str], delivery: str) -> None:
        with self._store.lock:
            for event_id in ids:
                if event_id in self._store.table("events"):
                    self._store.table("events")[event_id]["delivery"] = delivery
            if ids:
                self._store.save()
