"""Keeps the leases of a worker process alive while it generates, in one thread for all of them."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from flask import Flask

from app.core.logs import first_line
from app.core.transactions import transaction
from app.integrations.bounded_calls import BoundedCall
from app.messages.leases import Claim, renew

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews every held lease three times within its length, and ends the calls whose lease was lost."""

    def __init__(self, app: Flask, *, lease: timedelta, clock: Callable[[], datetime]) -> None:
        self.app = app
        self.lease = lease
        self.clock = clock
        self._held: dict[Claim, BoundedCall] = {}
        self._lock = threading.Lock()
        self._started = False
        self._leaving = False

    @contextmanager
    def hold(self, claim: Claim, *, seconds: float) -> Iterator[BoundedCall]:
        """Keep the claim's lease alive during the block; the call in it is bounded by `seconds`."""
        with BoundedCall(seconds) as call:
            with self._lock:
                self._held[claim] = call
                if not self._started:
                    threading.Thread(target=self._run, name="lease-keeper", daemon=True).start()
                    self._started = True
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

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self.lease.total_seconds() / 3):
            held = self._snapshot()
            if not held:
                continue
            try:
                with self.app.app_context(), transaction():
                    still_held = renew(held, now=self.clock(), lease=self.lease)
            except Exception as error:
                log.warning("Leases could not be renewed (%s); trying again", first_line(error))
                continue
            for claim, call in held.items():
                if claim.reply_id not in still_held:
                    call.abort()
