"""Idempotency keys, as https://docs.stripe.com/api/idempotent_requests describes them.

The first answer to a POST with a key, a failure included, is kept for 24 hours and given again to the same
request. Another request with the key is refused. A request that comes while the first is still being worked
on conflicts. Parameters that were refused keep nothing.
"""

import hashlib
import json
import threading
from typing import Any

from sandbox.stripe.store import Json, Store, now
from sandbox.stripe.wire import StripeError, idempotency_in_use, idempotency_mismatch

KEPT_SECONDS = 24 * 3600
MAX_KEY_CHARS = 255


class IdempotencyKeys:
    """The keys in use and the answers kept. Keys are counted by account; the stand-in has one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._working: dict[str, str] = {}
        self._lock = threading.Lock()

    def begin(self, key: str, method: str, path: str, params: Any) -> Json | None:
        """The kept answer `{status, body, request_id}` of this request, or None when it is to be worked on.

        Raises StripeError for a key of another request (400) and for one being worked on (409). After None,
        `finish` or `abandon` must follow.
        """
        if len(key) > MAX_KEY_CHARS:
            raise StripeError(400, f"Idempotency keys are at most {MAX_KEY_CHARS} characters long.", keep=False)
        print_of = _fingerprint(method, path, params)
        with self._store.lock, self._lock:
            kept = self._store.table("idempotency").get(key)
            if kept and kept["created"] + KEPT_SECONDS > now():
                if kept["request"] != print_of:
                    raise idempotency_mismatch(key)
                return kept
            if key in self._working:
                raise idempotency_in_use(key) if self._working[key] == print_of else idempotency_mismatch(key)
            self._working[key] = print_of
            return None

    def finish(self, key: str, status: int, body: Json, request_id: str) -> None:
        """Keep the answer."""
        with self._store.lock, self._lock:
            request = self._working.pop(key, "")
            table = self._store.table("idempotency")
            for old in [one for one, kept in table.items() if kept["created"] + KEPT_SECONDS <= now()]:
                del table[old]
            table[key] = {
                "request": request,
                "status": status,
                "body": body,
                "request_id": request_id,
                "created": now(),
            }

    def abandon(self, key: str) -> None:
        """Keep nothing: the next request with the key is worked on."""
        with self._lock:
            self._working.pop(key, None)


def _fingerprint(method: str, path: str, params: Any) -> str:
    text = json.dumps([method, path, params], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
