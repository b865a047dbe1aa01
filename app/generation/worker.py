"""What a worker process does beside its attempts: renew leases, abort calls, end in time, and sweep up lost replies.

One thread renews all leases of the process, another one listens for cancellations.
"""

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
from app.core.db import DATABASE_GAVE_UP, log_database_error
from app.core.logging import first_line
from app.core.redis import redis_client
from app.core.transactions import transaction
from app.generation.queries import lost_replies, waits_for_slot
from app.generation.queueing import enqueue_generation, mark_enqueued
from app.generation.state import Claim, renew
from app.integrations.bounded_calls import BoundedCall
from app.streaming.events import cancellations

log = logging.getLogger(__name__)

FINISH_WITHIN_SECONDS = 15  # of a shutdown's 25: what is not done by then is released
LISTEN_AGAIN_SECONDS = 1.0
SWEEP_CURSOR = "sweeper:goes_on_at"  # in Redis: the chatroom after which the next sweep goes on
FIRST_ROOM = UUID(int=0)


class LeaseKeeper:
    """Renews every held lease three times within its length, and aborts the calls whose lease was lost."""

    def __init__(self, app: Flask, *, lease: timedelta) -> None:
        self.app = app
        self.lease = lease
        self._held: dict[Claim, BoundedCall] = {}
        self._lock = threading.Lock()
        self._started = False
        self._stopping = False
        self._listening = threading.Event()
        self._closed = threading.Event()

    @contextmanager
    def hold(self, held: Claim, *, seconds: float) -> Iterator[BoundedCall]:
        """Keep the claim's lease alive during the block; the call in it is bounded by `seconds`."""
        with BoundedCall(seconds) as call:
            with self._lock:
                if not self._started:
                    for work in (self._renew, self._listen):
                        threading.Thread(target=work, name=f"lease-keeper{work.__name__}", daemon=True).start()
                    self._started = True
                self._held[held] = call
            self._listening.wait(LISTEN_AGAIN_SECONDS)  # the process's first replies: no cancellation goes unheard
            if self._stopping:
                call.abort()
            try:
                yield call
            finally:
                with self._lock:
                    del self._held[held]

    def abort_calls_after(self, seconds: float) -> None:
        """Give the calls under way `seconds` more, then abort them: their replies go back into the queue."""
        timer = threading.Timer(seconds, self._stop)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Let the threads end, where there is more than one keeper in a process."""
        self._closed.set()

    def _stop(self) -> None:
        self._stopping = True
        calls = self._snapshot()
        if calls:
            log.warning("Shutting down: %d replies are released", len(calls))
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
                if claim not in still_held:
                    call.abort()

    def _listen(self) -> None:
        """Abort the calls of canceled replies at once; without Redis their leases tell, a little later."""
        while not self._closed.is_set():
            try:
                with self.app.app_context():
                    for canceled in cancellations():
                        self._listening.set()
                        if canceled is not None:
                            self._abort(*canceled)
                        if self._closed.is_set():
                            return
            except RedisError as error:
                log.warning("Redis is unavailable (%s); cancellations take until a lease is renewed", first_line(error))
            except Exception:
                log.exception("A defect ended the listening to cancellations; it begins anew")
            self._closed.wait(LISTEN_AGAIN_SECONDS)

    def _abort(self, reply_id: UUID, last_attempt: int) -> None:
        for claim, call in self._snapshot().items():
            if claim.reply_id == reply_id and claim.attempt <= last_attempt:
                call.abort()


class FinishingPool(TaskPool):  # type: ignore[misc]
    """Celery's threads, which at a shutdown also do what this process has taken and not begun: Celery drops it."""

    def on_stop(self) -> None:
        self.executor.shutdown()


def sweep_replies(*, now: datetime, requeue_after: timedelta) -> list[UUID]:
    """Queue the tasks of replies whose worker is gone, and of those in the next rooms whose task was lost; their ids.

    requeue_after: how long a task may take to be picked up before it counts as lost. One that was queued after the
    task that workers take next is not lost: it waits behind it. Safe to run twice at once: a reply is taken by one
    sweep, and a task too many changes nothing.
    """
    lost_before = min(now, next_published_at(GENERATIONS) or now) - requeue_after
    worker_gone = and_(
        messages.c.status == Status.GENERATING,
        messages.c.lease_expires_at < func.now(),
        or_(messages.c.enqueued_at <= messages.c.lease_expires_at, messages.c.enqueued_at < lost_before),
    )
    after = sweep_cursor()
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
    set_sweep_cursor(last_room or FIRST_ROOM)
    if queued:
        log.warning("The sweeper queued %d replies again", len(queued))
    return queued


def sweep_cursor() -> UUID:
    """The chatroom after which this sweep goes on: the first one's, when Redis does not know."""
    with suppress(RedisError):
        known: Any = redis_client().get(SWEEP_CURSOR)
        return UUID(known.decode()) if known else FIRST_ROOM
    return FIRST_ROOM


def set_sweep_cursor(chatroom_id: UUID) -> None:
    with suppress(RedisError):
        redis_client().set(SWEEP_CURSOR, str(chatroom_id))
