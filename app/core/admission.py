"""Admission of requests: checks that the session is active, and enforces the limits of its user or its address.

A Limit is a number of requests per minute or per hour for one user or one address. flask-limiter counts them in Redis.
Each Limit is a share of RATE_LIMIT_PER_MINUTE; 0 lifts them all, and without Redis none is enforced. The limits of each
mobile number are kept by the auth feature in PostgreSQL: nothing lifts those.

Requests that are held open (streams, waits, exports) take slots: a process has a number of each kind for everybody
(`held_request`), and a user may have a few over all processes (`user_slot`, in Redis).

An API key counts as a session here. `session:{id}` holds the user's id for ACTIVE_SECONDS. It is written (NX) after the
auth feature has found the session active in PostgreSQL. When a session ends, a tombstone replaces the entry after the
commit. It outlives any entry, so that a check which began before the end cannot write a new one. Without Redis each
request asks PostgreSQL. One round trip looks up a known session and counts its user's request.
"""

import ipaddress
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import redis
from flask import request
from limits import RateLimitItem, RateLimitItemPerMinute

from app.core import settings
from app.core.errors import RateLimited
from app.core.logging import first_line
from app.core.redis import RedisCircuitOpen, rate_limits, redis_client, redis_guard, window_seconds

# RFC 6177: one customer gets a whole /64, /56 or /48. A carrier gives each phone a /64, so a wider network may hold
# many customers: each is allowed four times as much as the next narrower one.
IPV6_NETWORKS = {64: 1, 56: 4, 48: 16}

SessionValidator = Callable[[UUID, UUID, datetime], bool]

ACTIVE_SECONDS = 60
TOMBSTONE_SECONDS = 120
TOMBSTONE = b"ended"
# If the session's entry names this user, counts the user's request as flask-limiter does. Returns the entry, and the
# user's requests in the window (0 if not counted).
ADMIT = """
local user = redis.call('GET', KEYS[1])
if user ~= ARGV[1] then return {user, 0} end
local count = redis.call('INCR', KEYS[2])
if count == 1 then redis.call('EXPIRE', KEYS[2], ARGV[2]) end
return {user, count}
"""

SLOT_SECONDS = 60  # how long a slot lasts without a renewal, as when its process has died
_held: Counter[str] = Counter()  # requests of this process, by kind
_held_lock = threading.Lock()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """A limit for each key. share: maps RATE_LIMIT_PER_MINUTE to the number of requests in one window."""

    name: str
    window: type[RateLimitItem]
    share: Callable[[int], int]

    def item(self, factor: int) -> RateLimitItem:
        return self.window(factor * self.share(settings().rate_limit_per_minute or 0), namespace=self.name)


REQUESTS = Limit("requests", RateLimitItemPerMinute, lambda per_minute: per_minute)


def admit(session_id: UUID, user_id: UUID, now: datetime, validate: SessionValidator) -> bool:
    """Return whether the session is active; count an active one's request against its user's limit.

    validate: asks PostgreSQL whether the session is active; the factory passes in `auth.sessions.is_session_active` or
    `auth.sessions.is_key_active`. No database connection is held afterwards. Raises RateLimited.
    """
    try:
        with redis_guard():
            entry, count = session_and_count(session_id, user_id)
            limit = settings().rate_limit_per_minute
            if limit and count > limit:
                raise RateLimited(retry_after=window_seconds(REQUESTS.item(1), f"user:{user_id}"))
    except redis.RedisError as error:
        if not isinstance(error, RedisCircuitOpen):
            log.warning(
                "Redis is unavailable; PostgreSQL checks sessions, and no request is counted: %s", first_line(error)
            )
        return validate(session_id, user_id, now)
    if entry is None:
        if not validate(session_id, user_id, now):
            with suppress(redis.RedisError), redis_guard():
                forget_sessions([session_id])  # it has ended for good: its next requests need only Redis
            return False
        remember_active(session_id, user_id)
        enforce(REQUESTS, f"user:{user_id}")
        return True
    return entry == str(user_id).encode()


def session_and_count(session_id: UUID, user_id: UUID) -> tuple[bytes | None, int]:
    """Count the request. Return the session's entry and its user's requests in the window (0 if not counted)."""
    key = session_key(session_id)
    if not settings().rate_limit_per_minute:
        return cast("bytes | None", redis_client().get(key)), 0
    item, storage = REQUESTS.item(1), cast(Any, rate_limits().storage)
    counter = storage.prefixed_key(item.key_for(f"user:{user_id}"))
    answer: Any = redis_client().register_script(ADMIT)(keys=[key, counter], args=[str(user_id), item.get_expiry()])
    return answer[0], answer[1]


def remember_active(session_id: UUID, user_id: UUID) -> None:
    """Let the next requests of the session skip PostgreSQL."""
    with suppress(redis.RedisError), redis_guard():
        redis_client().set(session_key(session_id), str(user_id), nx=True, ex=ACTIVE_SECONDS)


def forget_sessions(session_ids: Iterable[UUID]) -> None:
    """Replace the entries of ended sessions by tombstones. Call it after the commit. Raises redis.RedisError.

    The entry is deleted first: a full Redis refuses the tombstone, but still deletes the entry.
    """
    pipeline = redis_client().pipeline(transaction=False)
    for session_id in session_ids:
        pipeline.delete(session_key(session_id))
        pipeline.set(session_key(session_id), TOMBSTONE, ex=TOMBSTONE_SECONDS)
    pipeline.execute()


def session_key(session_id: UUID) -> str:
    """Return the session's key in Redis."""
    return f"session:{session_id}"


def limit_address(*limits: Limit) -> None:
    """Count the request against its client's address; all without an address share one. Raises RateLimited.

    A request that exceeds a narrow network's limit does not count against the wider networks.
    """
    for limit in limits:
        for network, factor in (client_networks(request.remote_addr) or {"unknown": 1}).items():
            enforce(limit, f"ip:{network}", factor)


def enforce(limit: Limit, key: str, factor: int = 1) -> None:
    """Count one request for the key. Takes one round trip to Redis, or two if it is refused. Raises RateLimited.

    factor: how many times the limit this key is allowed.
    """
    if not settings().rate_limit_per_minute:
        return
    item = limit.item(factor)
    try:
        with redis_guard():
            if rate_limits().hit(item, key):
                return
            raise RateLimited(retry_after=window_seconds(item, key))
    except RedisCircuitOpen:
        return
    except redis.RedisError as error:
        log.warning("Redis is unavailable; rate limits are not enforced: %s", first_line(error))


def client_networks(text: str | None) -> dict[str, int]:
    """Return the networks that a client's address counts for, and how many clients' limits each is allowed.

    For IPv4 it is the address itself, for IPv6 its /64, /56 and /48. Empty if the text is not an address.
    """
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        networks = IPV6_NETWORKS.items()
        return {str(ipaddress.ip_network((address, bits), strict=False)): factor for bits, factor in networks}
    return {} if address is None else {str(address): 1}


def parse_address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address, without its port, brackets and zone. Returns None if the text is not an address.

    An IPv4 address mapped to IPv6 becomes IPv4. Some proxies write `198.51.100.4:5123` or `[2001:db8::1]:443`.
    """
    text = (text or "").strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@contextmanager
def held_request(kind: str, *, at_most: int) -> Iterator[bool]:
    """Count a request as held during the block. Yields False, and counts nothing, if `at_most` are held already.

    A held request occupies a thread of this process, and all other requests need threads too.
    """
    with _held_lock:
        has_slot = _held[kind] < at_most
        _held[kind] += has_slot
    try:
        yield has_slot
    finally:
        with _held_lock:
            _held[kind] -= has_slot
            if not _held[kind]:
                del _held[kind]


class Slot:
    """One of the few requests of a kind that a user may hold open at once. key: names the kind and the user."""

    def __init__(self, key: str) -> None:
        self.key = key
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
            return 0

    def release(self) -> None:
        with suppress(redis.RedisError):  # without it the slot expires
            self.client.zrem(self.key, self.name)


@contextmanager
def user_slot(key: str, *, at_most: int) -> Iterator[Slot | None]:
    """Hold one of a user's slots during the block. Yields None if `at_most` are held. Without Redis none is counted."""
    slot = Slot(key)
    try:
        yield slot if slot.renew() <= at_most else None
    finally:
        slot.release()
