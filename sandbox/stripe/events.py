"""Events: made with every change, kept, and handed to the sender (https://docs.stripe.com/api/events)."""

import copy
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import stripe
from flask import g, has_request_context

from sandbox.stripe.store import Json, Store, new_id, now

INDENT = 2  # Stripe sends its events indented
REMEMBERED_EVENTS = 5_000  # so that a state kept for months stays small


def sign(payload: str, secret: str, timestamp: int | None = None) -> str:
    """The `Stripe-Signature` header of a payload.

    https://docs.stripe.com/webhooks#verify-manually: HMAC-SHA256 of "timestamp.payload", in hex.
    timestamp: Unix seconds; now when None.
    """
    at = int(time.time()) if timestamp is None else timestamp
    digest = hmac.new(secret.encode(), f"{at}.{payload}".encode(), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def changed_fields(before: Json, after: Json) -> Json:
    """`previous_attributes` of an update: the old values of the fields that differ."""
    return {name: before.get(name) for name in after if before.get(name) != after[name]}


class Events:
    """The log of events. A batch is what one action made; it is handed on when the action is through."""

    def __init__(self, store: Store, hand_on: Callable[[list[str]], None]) -> None:
        self._store = store
        self._hand_on = hand_on
        self._fresh: list[str] = []
        self.api_version = stripe.api_version or ""

    def emit(self, kind: str, item: Json, previous: Json | None = None) -> str:
        """Make one event of the object as it is now, to be sent at the next `flush`; returns its id."""
        return self.make(kind, item, previous)["id"]  # type: ignore[no-any-return]

    def make(self, kind: str, item: Json, previous: Json | None = None, api_version: str | None = None) -> Json:
        """As `emit`, optionally of another API version; returns the whole event."""
        in_request = has_request_context()
        event: Json = {
            "id": new_id("evt_"),
            "object": "event",
            "api_version": api_version or self.api_version,
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

    def flush(self) -> list[str]:
        """Hand the new events to the sender, in the order they were made; returns their ids."""
        with self._store.lock:
            fresh, self._fresh = self._fresh, []
            records = self._store.table("events")
            ids = [one for one in fresh if one in records and records[one]["delivery"] == "new"]
            for one in ids:
                records[one]["delivery"] = "pending"
        if ids:
            self._hand_on(ids)
        return ids

    def all(self) -> list[Json]:
        """Every event object, oldest first."""
        with self._store.lock:
            return [json.loads(record["payload"]) for record in self._store.table("events").values()]


def of_types(events: Iterable[Json], wanted: list[str]) -> list[Json]:
    """Events of these types; `customer.*` stands for all that begin so. No types means all."""

    def fits(kind: str) -> bool:
        return any(kind == one or (one.endswith("*") and kind.startswith(one[:-1])) for one in wanted)

    return [event for event in events if not wanted or fits(event["type"])]


def shown(record: Json) -> dict[str, Any]:
    """A record for the control API: the event with what became of its delivery."""
    return {
        "id": record["id"],
        "type": json.loads(record["payload"])["type"],
        "delivery": record["delivery"],
        "attempts": record["attempts"],
        "event": json.loads(record["payload"]),
        "payload": record["payload"],
    }
