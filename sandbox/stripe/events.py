"""Events: made with every change, kept, delivered to one endpoint in order, and retried after failures.

https://docs.stripe.com/api/events and https://docs.stripe.com/webhooks: any 2xx is a success; everything else is
retried with growing pauses.
"""

import copy
import hashlib
import heapq
import hmac
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import requests
import stripe
from flask import g, has_request_context
from pydantic import BaseModel, ConfigDict, Field

from sandbox.stack.processes import direct_session
from sandbox.stripe.store import Json, Store, new_id, now

DEFAULT_RETRY_DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 3, 20
INDENT = 2  # Stripe sends its events indented
REMEMBERED_EVENTS = 5_000  # so that a state kept for months stays small


def sign(payload: str, secret: str, timestamp: int | None = None) -> str:
    """Return the `Stripe-Signature` header of a payload.

    https://docs.stripe.com/webhooks#verify-manually: HMAC-SHA256 of "timestamp.payload", in hex.
    timestamp: Unix seconds; None for now.
    """
    at = int(time.time()) if timestamp is None else timestamp
    digest = hmac.new(secret.encode(), f"{at}.{payload}".encode(), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Events:
    """The log of events. The events that one action makes are a batch, handed on when the action is done."""

    def __init__(self, store: Store, hand_on: Callable[[list[str]], None]) -> None:
        self._store = store
        self._hand_on = hand_on
        self._fresh: list[str] = []

    def emit(self, kind: str, item: Json, previous: Json | None = None, api_version: str | None = None) -> Json:
        """Make an event about the object as it is now; the next `flush` sends it. Returns the event."""
        in_request = has_request_context()
        event: Json = {
            "id": new_id("evt_"),
            "object": "event",
            "api_version": api_version or stripe.api_version,
            "created": now(),
            "data": {"object": copy.deepcopy(item)},
            "livemode": False,
            "pending_webhooks": 1,
            "request": {
                "id": g.get("request_id") if in_request else None,
                "idempotency_key": g.get("idempotency_key") if in_request else None,
            },
            "type": kind,
        }
        if previous is not None:
            event["data"]["previous_attributes"] = copy.deepcopy(previous)
        record = {
            "id": event["id"],
            "created": event["created"],
            "payload": json.dumps(event, indent=INDENT),
            "delivery": "new",
            "attempts": [],
        }
        table = self._store.table("events")
        table[event["id"]] = record
        self._fresh.append(event["id"])
        while len(table) > REMEMBERED_EVENTS:
            del table[next(iter(table))]
        return event

    def update(self, subscription: Json, changes: Json, before: Json | None = None) -> None:
        """Change a subscription and make its event. before: its state in the last event; None for its current state."""
        before = before or dict(subscription)
        subscription |= changes
        previous = {name: before.get(name) for name in subscription if before.get(name) != subscription[name]}
        self.emit("customer.subscription.updated", subscription, previous)

    def flush(self) -> list[str]:
        """Hand the new events to the sender, in the order they were made. Returns their ids."""
        with self._store.lock:
            fresh, self._fresh = self._fresh, []
            records = self._store.table("events")
            ids = [one for one in fresh if one in records and records[one]["delivery"] == "new"]
            for one in ids:
                records[one]["delivery"] = "pending"
        if ids:
            self._hand_on(ids)
        return ids


def shown(record: Json) -> Json:
    """Return a record for the control API: the event, and what became of its delivery."""
    event = json.loads(record["payload"])
    told = {name: record[name] for name in ("id", "delivery", "attempts", "payload")}
    return told | {"type": event["type"], "event": event}


class Endpoint(BaseModel):
    """Where events go, and how. Without an address they are only kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: str = ""
    secret: str = "whsec_sandbox"
    retry_delays: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = list(DEFAULT_RETRY_DELAYS)


class Sender:
    """A background thread with a queue of deliveries ordered by the time they are due."""

    def __init__(self, store: Store, endpoint: Endpoint) -> None:
        self._store, self._first = store, endpoint
        self.endpoint = endpoint
        self._wake = threading.Condition()
        self._queue: list[tuple[float, int, str, int]] = []  # due, order, event id, attempts so far
        self._order = itertools.count()
        self._sending = ""
        self._session = direct_session()

    def start(self) -> None:
        """Start to deliver, first what an earlier run left undelivered."""
        with self._store.lock:
            left = [
                record["id"]
                for record in self._store.table("events").values()
                if record["delivery"] in ("new", "pending")
            ]
        self.hand_on(left)
        threading.Thread(target=self._run, name="webhooks", daemon=True).start()

    def hand_on(self, ids: list[str]) -> None:
        """Queue a batch of events."""
        if not self.endpoint.url:
            self._mark(ids, "unsent")
            return
        self._mark(ids, "pending")
        with self._wake:
            for event_id in ids:
                heapq.heappush(self._queue, (time.monotonic(), next(self._order), event_id, 0))
            self._wake.notify_all()

    def configure(self, changes: Json) -> None:
        """Change fields of the endpoint. Raises pydantic.ValidationError."""
        self.endpoint = Endpoint(**self.endpoint.model_dump() | changes)

    def reset(self) -> None:
        """Forget what is queued and return to the initial settings."""
        with self._wake:
            self._queue = []
            self.endpoint = self._first
            self._wake.notify_all()

    def headers(self, payload: str) -> dict[str, str]:
        """Return the headers that go with a payload."""
        return {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": sign(payload, self.endpoint.secret),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing is queued. Returns False if that takes too long."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._queue and not self._sending, timeout_seconds)

    def wait_tried(self, ids: list[str], timeout_seconds: float) -> bool:
        """Wait until each of these was tried once, or need not be. Returns False if that takes too long."""

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
            payload = str(record["payload"])
        attempt: dict[str, Any] = {"at": now(), "status": None}
        try:
            answer = self._session.post(
                self.endpoint.url,
                data=payload.encode(),
                headers=self.headers(payload),
                timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
                allow_redirects=False,
            )
            attempt["status"] = answer.status_code
        except requests.RequestException as error:
            attempt["error"] = type(error).__name__
        with self._store.lock:
            record["attempts"].append(attempt)
        return 200 <= (attempt["status"] or 0) < 300

    def _mark(self, ids: list[str], delivery: str) -> None:
        with self._store.lock:
            for event_id in ids:
                if event_id in self._store.table("events"):
                    self._store.table("events")[event_id]["delivery"] = delivery
            if ids:
                self._store.save()
