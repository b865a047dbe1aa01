"""Slots for requests that are held open: of this process, and of one user on all processes together.

A held request has a thread, and all other requests need some too.
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

SLOT_SECONDS = 60  # without a renewal: of a process that died. Open streams renew theirs with each look
_held: Counter[str] = Counter()
_lock = threading.Lock()


@contextmanager
def held_request(kind: str, *, at_most: int) -> Iterator[bool]:
    """Count a request among the held ones during the block; False, and not counted, when `at_most` are held."""
    with _lock:
        has_slot = _held[kind] < at_most
        _held[kind] += has_slot
    try:
        yield has_slot
    finally:
        with _lock:
            _held[kind] -= has_slot


class Slot:
    """One of the few requests that a user may hold open at once, of those under the same key.

    key: what they are, a colon, and the user's id. lasts_seconds: without being renewed.
    """

    def __init__(self, key: str, *, lasts_seconds: int) -> None:
        self.key = key
        self.kind = key.partition(":")[0]
        self.name = secrets.token_hex(8)
        self.lasts_seconds = lasts_seconds
        self.client = redis_client()  # a slot is given up when its request is over, and its context with it

    def keep(self) -> int:
        """Say that the request is still open; how many the user has open, 0 without Redis."""
        now = time.time()
        pipeline = self.client.pipeline(transaction=True)
        pipeline.zremrangebyscore(self.key, "-inf", now)
        pipeline.zadd(self.key, {self.name: now + self.lasts_seconds})
        pipeline.zcard(self.key)
        pipeline.expire(self.key, self.lasts_seconds)
        try:
            return int(pipeline.execute()[2])
        except redis.RedisError:
            log.warning("Redis is unavailable; the %s of a user are not counted", self.kind)
            return 0

    def give_up(self) -> None:
        try:
            self.client.zrem(self.key, self.name)
        except redis.RedisError:
            log.warning("Redis is unavailable; a slot for %s is released in %d s", self.kind, self.lasts_seconds)


@contextmanager
def user_slot(key: str, *, at_most: int, lasts_seconds: int = SLOT_SECONDS) -> Iterator[Slot | None]:
    """Hold one of a user's slots during the block; None when `at_most` are held. Without Redis nobody counts them."""
    slot = Slot(key, lasts_seconds=lasts_seconds)
    try:
        yield slot if slot.keep() <= at_most else None
    finally:
        slot.give_up()
