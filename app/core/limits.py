"""Abuse limits: so many requests a minute or an hour, for a user or an address, counted by flask-limiter.

Each is a share of RATE_LIMIT_PER_MINUTE, and 0 lifts them all. Redis gone: they are open. Limits for each mobile
number are the auth feature's and live in PostgreSQL: nothing lifts those.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import redis
from flask import request
from limits import RateLimitItem, RateLimitItemPerMinute

from app.core.addresses import client_networks
from app.core.errors import RateLimited
from app.core.logs import first_line
from app.core.redis_clients import RedisRests, asking_redis, rate_limits
from app.core.settings import settings

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


def limit_user(user_id: UUID) -> None:
    """Count a request of a session that lives. Raises RateLimited."""
    enforce(REQUESTS, f"user:{user_id}")


def limit_address(*limits: Limit) -> None:
    """Count a request by where it comes from; all that come from no address are one. Raises RateLimited.

    What a narrow network is refused for is not counted for the wider ones.
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
            window = rate_limits().get_window_stats(item, key)
    except RedisRests:
        return
    except redis.RedisError as error:
        log.warning("Redis does not count, and abuse limits are open: %s", first_line(error))
        return
    raise RateLimited(retry_after=int(window.reset_time - time.time()) + 1)
