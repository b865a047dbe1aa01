"""Slots for requests that are held open: per process, and per user across all processes.

A held request occupies a thread, and all other requests need threads too.
"""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from app.core.redis import redis_client

log = logging.getLogger(__name__)

SLOT_SECONDS = 60  # how long a slot lasts without a renewal, as when its process has died
_held: Counter[str] = Counter()
_lock = threading.Lock()


@contextmanager
def held_request(kind: str, *, at_most: int) -> Iterator[bool]:
    """Count a request as held during the block. Yields False, and counts nothing, if `at_most` are held already."""
    with _lock:
        has_slot = _held[kind] < at_most
        _held[kind] += has_slot
    try:
        yield has_slot
    finally:
        with _lock:
            _held[kind] -= has_slot
            if not _held[kind]:
                del _held[kind]


class Slot:
    """One of the few requests of a kind that a user may hold open at once.

    key: the kind of request, a colon, and the user's id.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.kind = key.partition(":")[0]
        self.name = secrets.token_hex(8)
        self.client = redis_client()  # kept, because a slot outlives its request's context

    def renew(self) -> int:
        """Take or renew the slot for SLOT_SECONDS. Returns how many slots the user holds, or 0 without Redis."""
        now = time.time()
        pipeline = self.client.pipeline(transaction=True)
        pipeline.zremrangebyscore(self.key, "-inf", now)
        pipeline.zadd(self.key, {self.name: now + SLOT_SECONDS})
        pipeline.zcard(self.key)
        pipeline.expire(self.key, SLOT_SECONDS)
        try:
            return int(pipeline.execute()[2])
        except redis.RedisError:
            log.warning("Redis is unavailable; a user's %s are not counted", self.kind)
            return 0

    def release(self) -> None:
        try:
            self.client.zrem(self.key, self.name)
        except redis.RedisError:
            log.warning("Redis is unavailable; a user's slot for %s expires within %d s", self.kind, SLOT_SECONDS)


@contextmanager
def user_slot(key: str, *, at_most: int) -> Iterator[Slot | None]:
    """Hold one of a user's slots during the block. Yields None if `at_most` are held. Without Redis none is counted."""
    slot = Slot(key)
    try:
        yield slot if slot.renew() <= at_most else None
    finally:
        slot.release()
