"""What the stand-in remembers: tables of Stripe objects, in memory and optionally in a JSON file, and their pages."""

import json
import os
import secrets
import string
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from sandbox.stripe.wire import Params, as_text, missing_resource, parameter_invalid

Json = dict[str, Any]

ALPHABET = string.ascii_letters + string.digits
ID_LENGTHS = {"cs_test_": 58, "sub_": 24, "in_": 24, "evt_": 24, "bps_": 24}
TABLES = {
    "customer": "customers",
    "price": "prices",
    "checkout.session": "sessions",
    "subscription": "subscriptions",
    "invoice": "invoices",
    "billing_portal.session": "portals",
}
OTHER_TABLES = ("line_items", "events", "idempotency")  # line_items: a session's line, and its subscription's metadata
DEFAULT_LIMIT, MAX_LIMIT = 10, 100


def new_id(prefix: str) -> str:
    """Return an id that looks like Stripe's."""
    length = ID_LENGTHS.get(prefix, 14)
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(length))


def now() -> int:
    """Return the Unix time in whole seconds, as Stripe gives it."""
    return int(time.time())


class Store:
    """Tables of JSON objects by id, oldest first. Hold `lock` around every read or write."""

    def __init__(self, path: Path | None = None) -> None:
        self.lock = threading.RLock()
        self.path = path
        self.tables: dict[str, dict[str, Json]] = {}
        self.reset()
        if path and path.exists():
            self.tables |= json.loads(path.read_text(encoding="utf-8"))

    def reset(self) -> None:
        """Forget everything."""
        self.tables = {name: {} for name in (*TABLES.values(), *OTHER_TABLES)}

    def table(self, kind: str) -> dict[str, Json]:
        """Return the table of a kind of object (`customer`, …) or of the server's own records."""
        return self.tables[TABLES.get(kind, kind)]

    def add(self, item: Json) -> Json:
        """Keep a new object."""
        self.table(item["object"])[item["id"]] = item
        return item

    def get(self, kind: str, object_id: str, param: str | None = None) -> Json:
        """Return the object itself, to read or to change.

        param: the parameter that named it; None if the path did.
        Raises StripeError `resource_missing`.
        """
        item = self.table(kind).get(object_id)
        if item is None:
            raise missing_resource(kind, object_id, param)
        return item

    def newest_first(self, kind: str) -> list[Json]:
        """Return all objects of a kind in the order of Stripe's lists."""
        return list(reversed(self.table(kind).values()))

    def save(self) -> None:
        """Write the file, if there is one, so that a crash leaves either the old or the new state."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock:
            text = json.dumps(self.tables)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self.path.parent, prefix=f".{self.path.name}.", delete=False
            ) as file:
                file.write(text)
            os.replace(file.name, self.path)


def list_object(data: list[Json], url: str, has_more: bool = False) -> Json:
    """https://docs.stripe.com/api/pagination"""
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def page(items: list[Json], params: Params, url: str) -> Json:
    """Return one page of `items`, newest first, by `limit` and `starting_after`."""
    limit = int(params.get("limit") or DEFAULT_LIMIT)
    if not 1 <= limit <= MAX_LIMIT:
        raise parameter_invalid("limit", "This value must be between 1 and 100.", "parameter_invalid_integer")
    after = as_text(params, "starting_after")
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise parameter_invalid("starting_after", f"No such object: '{after}'", "resource_missing")
    start = ids.index(after) + 1 if after else 0
    return list_object(items[start : start + limit], url, has_more=len(items) > start + limit)
