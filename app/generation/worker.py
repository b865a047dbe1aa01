"""What a worker process does beside its attempts: renew leases, abort calls, end in time, and sweep up lost replies."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery.concurrency.thread import TaskPool
from flask import Flask
from redis.exceptions import RedisError
from sqlalchemy import and_, func, or_

from app.chatrooms.models import Status, messages
from app.core.broker import GENERATIONS
from app.core.celery import next_published_at
from app.core.db import TRANSIENT_DATABASE_ERRORS, log_database_error
from app.core.redis import redis_client
from app.core.transactions import transaction
from app.generation.queueing import enqueue_generation, lost_replies, mark_enqueued, waits_for_slot
from app.generation.state import Claim, renew
from app.integrations.bounded_calls import BoundedCall

log = logging.getLogger(__name__)

FINISH_WITHIN_SECONDS = 15  # of a shutdown's 25: replies that are not done by then are released
CHECK_EVERY_SECONDS = 1.0  # how long a call may go on after its reply was canceled, deleted or taken over
SWEEP_CURSOR = "sweeper:goes_on_at"  # in Redis: the chatroom after which the next sweep goes on
FIRST_ROOM = UUID(int=0)


class LeaseKeeper:
    """Renews every held lease once a third of it is over, and aborts the calls whose lease was lost.

    One thread does this for all replies of the process.
    """

    def __init__(self, app: Flask, *, lease: timedelta) -> None:
        self.app = app
        self.lease = lease
        self._calls: dict[Claim, BoundedCall] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="lease-keeper", daemon=True)
        self._stopping = False
        self._closed = threading.Event()

    @contextmanager
    def hold(self, claim: Claim, *, seconds: float) -> Iterator[BoundedCall]:
        """Keep the claim's lease alive during the block; the call in it is bounded by `seconds`."""
        with BoundedCall(seconds) as call:
            with self._lock:
                if self._thread.ident is None:
                    self._thread.start()
                self._calls[claim] = call
            if self._stopping:
                call.abort()
            try:
                yield call
            finally:
                with self._lock:
                    del self._calls[claim]

    def abort_calls_after(self, seconds: float) -> None:
        """Give the calls under way `seconds` more, then abort them: their replies go back into the queue."""
        timer = threading.Timer(seconds, self._stop)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Let the thread end; needed where a process makes more than one keeper."""
        self._closed.set()

    def _stop(self) -> None:
        self._stopping = True
        calls = self._snapshot()
        if calls:
            log.warning("Shutting down: releasing %d replies", len(calls))
        for call in calls.values():
            call.abort()

    def _snapshot(self) -> dict[Claim, BoundedCall]:
        with self._lock:
            return dict(self._calls)

    def _renew(self) -> None:
        failure: type[Exception] | None = None  # of the last renewal: each kind is logged once, not each second
        while not self._closed.wait(min(CHECK_EVERY_SECONDS, self.lease.total_seconds() / 3)):
            calls = self._snapshot()
            if not calls:
                continue
            try:
                with self.app.app_context(), transaction():
                    still_held = renew(calls, lease=self.lease)
            except Exception as error:
                if type(error) is not failure:
                    log_failed_renewal(error)
                failure = type(error)
                continue
            if failure:
                log.warning("Leases are renewed again")
                failure = None
            for claim, call in calls.items():
                if claim not in still_held:
                    call.abort()


def log_failed_renewal(error: Exception) -> None:
    if isinstance(error, TRANSIENT_DATABASE_ERRORS):
        log_database_error(log, "leases are not renewed; trying again each second", error)
    else:
        log.error("A defect keeps leases from being renewed; trying again each second", exc_info=error)


class FinishingPool(TaskPool):  # type: ignore[misc]
    """Celery's thread pool, which at a shutdown also runs tasks taken but not begun: Celery would drop them."""

    def on_stop(self) -> None:
        self.executor.shutdown()


def sweep_replies(*, now: datetime, requeue_after: timedelta) -> list[UUID]:
    """Queue again the replies whose worker is gone, and those in the next rooms whose task was lost. Returns the ids.

    requeue_after: how long a task may take to be picked up before it counts as lost. A task queued after the one that
    workers take next is not lost: it waits behind it. Two sweeps may run at once: each reply is taken by one of them,
    and a duplicate task changes nothing.
    """
    lost_before = min(now, next_published_at(GENERATIONS) or now) - requeue_after
    worker_gone = and_(
        messages.c.status == Status.GENERATING,
        messages.c.lease_expires_at < func.now(),
        or_(messages.c.enqueued_at <= messages.c.lease_expires_at, messages.c.enqueued_at < lost_before),
    )
    after = FIRST_ROOM
    with suppress(RedisError):
        cursor: Any = redis_client().get(SWEEP_CURSOR)
        after = UUID(cursor.decode()) if cursor else FIRST_ROOM
    with transaction() as tx:
        lost, last_room = lost_replies(after=after, lost_before=lost_before)
        task_lost = and_(
            messages.c.id.in_(lost),
            messages.c.status == Status.QUEUED,
            messages.c.enqueued_at < lost_before,
            ~waits_for_slot(),
        )
        queued = [reply_id for condition in (worker_gone, task_lost) for reply_id in mark_enqueued(condition, now)]
        for reply_id in queued:
            enqueue_generation(tx, reply_id)
    with suppress(RedisError):
        redis_client().set(SWEEP_CURSOR, str(last_room or FIRST_ROOM))
    if queued:
        log.warning("The sweeper queued %d replies again", len(queued))
    return queued
