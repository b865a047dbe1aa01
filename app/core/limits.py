"""Abuse limits: so many requests a minute or an hour, for a user or an address, counted by flask-limiter in Redis.

A request of a known session is counted where the session is looked up, in `sessions.admit`: one round trip for both.
Each is a share of RATE_LIMIT_PER_MINUTE, and 0 lifts them all; without Redis they are open. The limits of each mobile
number live in the auth feature and in PostgreSQL: nothing lifts those.
"""

import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import redis
from flask import request
from limits import RateLimitItem, RateLimitItemPerMinute

from app.core import settings
from app.core.errors import RateLimited
from app.core.logging import first_line
from app.core.redis import RedisRests, asking_redis, rate_limits

# RFC 6177: one customer has a /64, a /56 or a /48, and all of its addresses. A carrier gives each phone a /64, so the
# wider networks may be many customers: each may do four times as much as the one before.
IPV6_NETWORKS = {64: 1, 56: 4, 48: 16}

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
            raise_rate_limited(item, key)
    except RedisRests:
        return
    except redis.RedisError as error:
        log.warning("Redis does not count, and abuse limits are open: %s", first_line(error))


def raise_rate_limited(item: RateLimitItem, key: str) -> NoReturn:
    """Raise RateLimited with the time until the window is over. Raises redis.RedisError."""
    window = rate_limits().get_window_stats(item, key)
    raise RateLimited(retry_after=int(window.reset_time - time.time()) + 1)


def client_networks(text: str | None) -> dict[str, int]:
    """The networks that a client's address counts for, and how many times as much as one client each may do.

    IPv4: the address itself. IPv6: its /64, /56 and /48. Empty when it is no address.
    """
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return {str(ipaddress.ip_network((address, bits), strict=False)): IPV6_NETWORKS[bits] for bits in IPV6_NETWORKS}
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
