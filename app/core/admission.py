"""Admitting a request: is its session active, and is its user or its address within the limits?

A limit is so many requests a minute or an hour for a user or an address, counted by flask-limiter in Redis. Each is a
share of RATE_LIMIT_PER_MINUTE, and 0 lifts them all; without Redis they are open. The limits of each mobile number live
in the auth feature and in PostgreSQL: nothing lifts those.

An API key counts as a session here. `session:{id}` holds the user's id while the session is active, for ACTIVE_SECONDS,
written (NX) after a look into PostgreSQL, which the auth feature does. The end of a session replaces it, after the
commit, by a tombstone that outlives any entry: a look that was begun before writes nothing over it. Without Redis each
request asks PostgreSQL. A known session is looked up, and its user's request counted, in one round trip.
"""

import ipaddress
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
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
from app.core.redis import RedisCircuitOpen, asking_redis, rate_limits, redis_client, window_seconds

# RFC 6177: one customer has a /64, a /56 or a /48, and all of its addresses. A carrier gives each phone a /64, so the
# wider networks may be many customers: each may do four times as much as the one before.
IPV6_NETWORKS = {64: 1, 56: 4, 48: 16}

SessionValidator = Callable[[UUID, UUID, datetime], bool]

ACTIVE_SECONDS = 60
TOMBSTONE_SECONDS = 120
TOMBSTONE = b"ended"
# The session's entry and, if it is this user's, the user's requests in the window, as flask-limiter counts them.
ADMIT = """
local user = redis.call('GET', KEYS[1])
if user ~= ARGV[1] then return {user, 0} end
local count = redis.call('INCR', KEYS[2])
if count == 1 then redis.call('EXPIRE', KEYS[2], ARGV[2]) end
return {user, count}
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """A limit for each key. share: from RATE_LIMIT_PER_MINUTE to the amount in one window."""

    name: str
    window: type[RateLimitItem]
    share: Callable[[int], int]

    def item(self, times: int) -> RateLimitItem:
        return self.window(times * self.share(settings().rate_limit_per_minute or 0), namespace=self.name)


REQUESTS = Limit("requests", RateLimitItemPerMinute, lambda per_minute: per_minute)


def admit(session_id: UUID, user_id: UUID, now: datetime, validate: SessionValidator) -> bool:
    """Whether the session is active; a request of one counts against its user's limit. Raises RateLimited.

    validate: asks PostgreSQL whether the session is active: `auth.sessions.is_session_active`, or
    `auth.keys.is_key_active`, which the factory passes in. Holds no database connection afterwards.
    """
    try:
        with asking_redis():
            entry, count = session_and_count(session_id, user_id)
            limit = settings().rate_limit_per_minute
            if limit and count > limit:
                raise RateLimited(retry_after=window_seconds(REQUESTS.item(1), f"user:{user_id}"))
    except redis.RedisError as error:
        if not isinstance(error, RedisCircuitOpen):
            log.warning("Redis knows no sessions and counts no requests: %s", first_line(error))
        return validate(session_id, user_id, now)
    if entry is None:
        if not validate(session_id, user_id, now):
            with suppress(redis.RedisError), asking_redis():
                forget_sessions([session_id])  # for good: its next requests ask Redis alone
            return False
        remember_active(session_id, user_id)
        enforce(REQUESTS, f"user:{user_id}")
        return True
    return entry == str(user_id).encode()


def session_and_count(session_id: UUID, user_id: UUID) -> tuple[bytes | None, int]:
    """The session's entry, and how many requests its user has made in the window; 0 without a limit."""
    key = session_key(session_id)
    if not settings().rate_limit_per_minute:
        return cast("bytes | None", redis_client().get(key)), 0
    item, storage = REQUESTS.item(1), cast(Any, rate_limits().storage)
    counter = storage.prefixed_key(item.key_for(f"user:{user_id}"))
    answer: Any = redis_client().register_script(ADMIT)(keys=[key, counter], args=[str(user_id), item.get_expiry()])
    return answer[0], answer[1]


def remember_active(session_id: UUID, user_id: UUID) -> None:
    """Let the next requests of the session do without PostgreSQL."""
    with suppress(redis.RedisError), asking_redis():
        redis_client().set(session_key(session_id), str(user_id), nx=True, ex=ACTIVE_SECONDS)


def forget_sessions(session_ids: Iterable[UUID]) -> None:
    """Put a tombstone on each session that has ended, after the commit. Raises redis.RedisError.

    The entry goes first: a full Redis refuses a tombstone, and forgets nevertheless.
    """
    pipeline = redis_client().pipeline(transaction=False)
    for session_id in session_ids:
        pipeline.delete(session_key(session_id))
        pipeline.set(session_key(session_id), TOMBSTONE, ex=TOMBSTONE_SECONDS)
    pipeline.execute()


def session_key(session_id: UUID) -> str:
    """The session's key in Redis."""
    return f"session:{session_id}"


def limit_address(*limits: Limit) -> None:
    """Count a request by its client's address; all without an address count as one. Raises RateLimited.

    What a narrow network is refused does not count for the wider ones.
    """
    for limit in limits:
        for network, times in (client_networks(request.remote_addr) or {"unknown": 1}).items():
            enforce(limit, f"ip:{network}", times)


def enforce(limit: Limit, key: str, times: int = 1) -> None:
    """Count one for the key: one round trip to Redis, two when it is refused. Raises RateLimited.

    times: how many times the limit the key may do.
    """
    if not settings().rate_limit_per_minute:
        return
    item = limit.item(times)
    try:
        with asking_redis():
            if rate_limits().hit(item, key):
                return
            raise RateLimited(retry_after=window_seconds(item, key))
    except RedisCircuitOpen:
        return
    except redis.RedisError as error:
        log.warning("Redis does not count, and abuse limits are open: %s", first_line(error))


def client_networks(text: str | None) -> dict[str, int]:
    """The networks that a client's address counts for, and how many times as much as one client each may do.

    IPv4: the address itself. IPv6: its /64, /56 and /48. Empty when it is no address.
    """
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        networks = IPV6_NETWORKS.items()
        return {str(ipaddress.ip_network((address, bits), strict=False)): times for bits, times in networks}
    return {} if address is None else {str(address): 1}


def client_address(text: str | None) -> str | None:
    """The address in its canonical spelling, at most 39 characters; None when it is no address."""
    address = parse_address(text)
    return None if address is None else str(address)


def parse_address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address alone, without port, brackets and zone, IPv4 as such; None when it is no address.

    Some proxies write `198.51.100.4:5123` or `[2001:db8::1]:443`.
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
