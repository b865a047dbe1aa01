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

SLOT_SECONDS = 60  # without a renewal: of a process that died
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
            if not _held[kind]:
                del _held[kind]


class Slot:
    """One of the few requests that a user may hold open at once, of those under the same key.

    key: what they are, a colon, and the user's id.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.kind = key.partition(":")[0]
        self.name = secrets.token_hex(8)
        self.client = redis_client()  # a slot is given up when its request is over, and its context with it

    def keep(self) -> int:
        """Say within SLOT_SECONDS that the request is still open; how many the user has open, 0 without Redis."""
        now = time.time()
        pipeline = self.client.pipeline(transaction=True)
        pipeline.zremrangebyscore(self.key, "-inf", now)
        pipeline.zadd(self.key, {self.name: now + SLOT_SECONDS})
        pipeline.zcard(self.key)
        pipeline.expire(self.key, SLOT_SECONDS)
        try:
            return int(pipeline.execute()[2])
        except redis.RedisError:
            log.warning("Redis is unavailable; the %s of a user are not counted", self.kind)
            return 0

    def give_up(self) -> None:
        try:
            self.client.zrem(self.key, self.name)
        except redis.RedisError:
            log.warning("Redis is unavailable; a slot for %s is released in %d s", self.kind, SLOT_SECONDS)


@contextmanager
def user_slot(key: str, *, at_most: int) -> Iterator[Slot | None]:
    """Hold one of a user's slots during the block; None when `at_most` are held. Without Redis nobody counts them."""
    slot = Slot(key)
    try:
        yield slot if slot.keep() <= at_most else None
    finally:
        slot.give_up()
