"""A breaker: when Gemini is down for everybody, one call at a time asks whether it is back.

Each worker process has one. It opens after `threshold` failures in a row, which no single reply's retries
reach, and stays open for `pause_seconds`, doubled at each failed probe up to `max_pause_seconds`. While it is
open, replies are put off without counting as tried. Both changes are logged.

Keeps the leases of a worker process alive while it generates, and ends the calls that nobody wants any more.

One thread renews all leases, another one listens for canceled replies.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from flask import Flask
from redis.exceptions import RedisError

from app.core.db import DATABASE_GAVE_UP, log_database_error
from app.core.logging import first_line
from app.core.transactions import transaction
from app.generation.state import Claim, renew
from app.integrations.bounded_calls import BoundedCall
from app.streaming.events import unwanted_replies

log = logging.getLogger(__name__)


class Breaker:
    """Shared by the threads of a process."""

    def __init__(
        self,
        *,
        threshold: int = 10,
        pause_seconds: float = 2,
        max_pause_seconds: float = 20,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.threshold = threshold
        self.first_pause = pause_seconds
        self.max_pause = max_pause_seconds
        self.monotonic = monotonic
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._pause = pause_seconds
        self._open_until: float | None = None
        self._probing = False

    def wait_seconds(self) -> float:
        """0 when a call may be made now; else how long to put it off, spread so that not all come at once."""
        with self._lock:
            if self._open_until is None:
                return 0
            left = self._open_until - self.monotonic()
            if left <= 0 and not self._probing:
                self._probing = True
                return 0
            return max(left, 0) + random.uniform(0.5, 1.5) * self.first_pause  # noqa: S311 - a spread

    def record(self, *, answered: bool | None) -> None:
        """Say how an admitted call ended; None: in a way that tells nothing about Gemini."""
        with self._lock:
            was_open, was_probe = self._open_until is not None, self._probing
            self._probing = False
            if answered:
                self._failures_in_a_row, self._pause, self._open_until = 0, self.first_pause, None
                if was_open:
                    log.warning("Gemini answers again: the breaker is closed")
            elif answered is False:
                self._failures_in_a_row += 1
                if was_probe or (not was_open and self._failures_in_a_row >= self.threshold):
                    self._open(longer=was_probe)

    def _open(self, *, longer: bool) -> None:
        if longer:
            self._pause = min(self._pause * 2, self.max_pause)
        self._open_until = self.monotonic() + self._pause
        log.error(
            "Gemini has failed %d times in a row: the breaker is open for %.0f s",
            self._failures_in_a_row,
            self._pause,
        )


LISTEN_AGAIN_SECONDS = 1.0


class LeaseKeeper:
    """Renews every held lease three times within its length, and ends the calls whose lease was lost."""

    def __init__(self, app: Flask, *, lease: timedelta) -> None:
        self.app = app
        self.lease = lease
        self._held: dict[Claim, BoundedCall] = {}
        self._lock = threading.Lock()
        self._started = False
        self._leaving = False
        self._listening = threading.Event()
        self._closed = threading.Event()

    @contextmanager
    def hold(self, claim: Claim, *, seconds: float) -> Iterator[BoundedCall]:
        """Keep the claim's lease alive during the block; the call in it is bounded by `seconds`."""
        with BoundedCall(seconds) as call:
            with self._lock:
                self._held[claim] = call
                if not self._started:
                    for work in (self._renew, self._listen):
                        threading.Thread(target=work, name=f"lease-keeper{work.__name__}", daemon=True).start()
                    self._started = True
            self._listening.wait(LISTEN_AGAIN_SECONDS)  # the process's first replies: no cancellation goes unheard
            if self._leaving:
                call.abort()
            try:
                yield call
            finally:
                with self._lock:
                    del self._held[claim]

    def leave_after(self, seconds: float) -> None:
        """Give the calls under way `seconds` more, then end them: their replies go back into the queue."""
        timer = threading.Timer(seconds, self._leave)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Let the threads end, for whoever makes more than one keeper."""
        self._closed.set()

    def _leave(self) -> None:
        self._leaving = True
        calls = self._snapshot()
        if calls:
            log.warning("Shutting down: %d replies are handed back", len(calls))
        for call in calls.values():
            call.abort()

    def _snapshot(self) -> dict[Claim, BoundedCall]:
        with self._lock:
            return dict(self._held)

    def _renew(self) -> None:
        while not self._closed.wait(self.lease.total_seconds() / 3):
            held = self._snapshot()
            if not held:
                continue
            try:
                with self.app.app_context(), transaction():
                    still_held = renew(held, lease=self.lease)
            except DATABASE_GAVE_UP as error:
                log_database_error(log, "leases are renewed again", error)
                continue
            except Exception:
                log.exception("A defect kept leases from being renewed; trying again")
                continue
            for claim, call in held.items():
                if claim.reply_id not in still_held:
                    call.abort()

    def _listen(self) -> None:
        """End the calls of canceled replies at once; without Redis their leases tell, a little later."""
        while not self._closed.is_set():
            try:
                with self.app.app_context():
                    for reply_id in unwanted_replies():
                        self._listening.set()
                        self._abort(reply_id)
                        if self._closed.is_set():
                            return
            except RedisError as error:
                log.warning("Redis is unavailable (%s); cancellations take until a lease is renewed", first_line(error))
            except Exception:
                log.exception("A defect ended the listening to cancellations; it begins anew")
            self._closed.wait(LISTEN_AGAIN_SECONDS)

    def _abort(self, reply_id: UUID | None) -> None:
        for claim, call in self._snapshot().items():
            if claim.reply_id == reply_id:
                call.abort()
