"""Redis: the list cache, the limiter's storage and plain clients, with bounded waits and bounded pools."""

import json
import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import redis
from cachelib.serializers import BaseSerializer
from flask import Flask, current_app
from flask_caching import Cache
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits import RateLimitItem
from limits.strategies import RateLimiter

from app.core.broker import TIMEOUT_SECONDS, TIMEOUTS

if TYPE_CHECKING:
    from config import Settings

log = logging.getLogger(__name__)

POOL_WAIT_SECONDS = 0.6  # for a connection of the pool: a burst passes, and two commands still take under 3 s
OPEN_SECONDS = 5.0  # how long Redis is not asked after a time-out
CACHE_PREFIX = "cache:"  # of the keys that flask-caching writes
MAX_BLOCK_SECONDS = 5  # a blocking read asks again this often, so a silent Redis is noticed


class TextSerializer(BaseSerializer):
    """Stores text as JSON. The library's own serializers unpickle, and so execute, whatever anybody put into Redis."""

    def dumps(self, value: str, *_: object) -> bytes:
        return json.dumps(value).encode()

    def loads(self, stored: bytes | None) -> str | None:
        """Return the text, or None (a miss) for anything that is not our text."""
        try:
            text = json.loads(stored or b"null")
        except (ValueError, RecursionError):
            return None
        return text if isinstance(text, str) else None


cache = Cache()


class RedisCircuitOpen(redis.ConnectionError):
    """Redis was silent a moment ago, and is not asked now."""


class RedisBreaker:
    """A circuit breaker: keeps one process from waiting again and again for a silent Redis.

    A time-out opens it for OPEN_SECONDS. Meanwhile only one caller at a time may probe Redis, and the first answer
    closes it. A refused connection costs no wait, so it changes nothing.
    """

    def __init__(self) -> None:
        self._open_until = 0.0
        self._probe = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether Redis was silent a moment ago."""
        return time.monotonic() < self._open_until

    @contextmanager
    def guard(self, *, probing: bool) -> Iterator[None]:
        """Ask Redis within the block. Raises RedisCircuitOpen, and what the block raises.

        probing: ask even while the breaker is open, if nobody else does.
        """
        is_probe = self.is_open
        if is_probe and not (probing and self._probe.acquire(blocking=False)):
            raise RedisCircuitOpen("Redis did not answer a moment ago")
        try:
            yield
            self._open_until = 0.0
        except redis.TimeoutError:
            was_open, self._open_until = self.is_open, time.monotonic() + OPEN_SECONDS
            if not was_open:  # otherwise each thread that waited would log it
                log.warning("Redis timed out; this process does without it for up to %.0f s", OPEN_SECONDS)
            raise
        finally:
            if is_probe:
                self._probe.release()


def register_redis(app: Flask, settings: "Settings") -> None:
    """Set up the clients and extensions that use Redis. Nothing connects before it is needed.

    One pool serves the short commands of all extensions; each request that waits in a blocking read has a connection
    of its own.
    """
    pool = make_pool(settings.redis_url, settings.redis_pool_size)
    patient = {"socket_timeout": MAX_BLOCK_SECONDS + TIMEOUT_SECONDS}
    # One request may wait even if no stream is allowed. redis-py turns a size of 0 into 2³¹, and fills that pool.
    blocking = make_pool(settings.redis_url, max(1, settings.streams_allowed), **patient)
    app.extensions["redis"] = redis.Redis(connection_pool=pool)
    app.extensions["redis_blocking"] = redis.Redis(connection_pool=blocking)
    app.config.update(
        CACHE_TYPE="RedisCache",
        CACHE_REDIS_HOST=app.extensions["redis"],
        CACHE_SERIALIZER=TextSerializer(),
        CACHE_KEY_PREFIX=CACHE_PREFIX,
        CACHE_DEFAULT_TIMEOUT=settings.chatroom_list_ttl_seconds,
        RATELIMIT_STORAGE_URI=settings.redis_url,
        RATELIMIT_STORAGE_OPTIONS={"connection_pool": pool},
    )
    cache.init_app(app)
    limiter = Limiter(key_func=get_remote_address, strategy="fixed-window")
    # Registering it first keeps init_app from installing request hooks: no route has a limit of its own.
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)
    app.extensions["rate_limits"] = limiter.limiter
    app.extensions["redis_breaker"] = RedisBreaker()


def make_pool(url: str, size: int, **options: Any) -> redis.BlockingConnectionPool:
    """Make a pool of `size` connections. If none is free within POOL_WAIT_SECONDS, it raises redis.ConnectionError."""
    tls = {"ssl_cert_reqs": "required"} if url.startswith("rediss://") else {}
    return redis.BlockingConnectionPool.from_url(
        url, max_connections=size, timeout=POOL_WAIT_SECONDS, **(TIMEOUTS | tls | options)
    )


def redis_client(*, blocking: bool = False) -> redis.Redis:
    """Return the client. blocking: for reads that wait, up to MAX_BLOCK_SECONDS each."""
    return cast(redis.Redis, current_app.extensions["redis_blocking" if blocking else "redis"])


def rate_limits() -> RateLimiter:
    """Return flask-limiter's strategy, for limits that a use case applies. Its `storage` has the counters in Redis."""
    return cast(RateLimiter, current_app.extensions["rate_limits"])


def window_seconds(item: RateLimitItem, key: str) -> int:
    """Return the seconds until the key's window ends, rounded up: a value for `Retry-After`. Raises redis.RedisError.

    `get_window_stats` rounds to the nearest second: a client that waited so long was often refused again.
    """
    storage = cast(Any, rate_limits().storage)
    milliseconds = cast(int, redis_client().pttl(storage.prefixed_key(item.key_for(key))))
    return max(1, math.ceil(milliseconds / 1_000))


def redis_breaker() -> RedisBreaker:
    """Return this process's breaker."""
    return cast(RedisBreaker, current_app.extensions["redis_breaker"])


def redis_guard() -> AbstractContextManager[None]:
    """Ask Redis within the block, unless it was silent a moment ago. Raises redis.RedisError.

    For callers that hold a database connection or can do without the answer.
    """
    return redis_breaker().guard(probing=False)


def require_redis() -> None:
    """Refuse work that needs Redis while Redis is silent. The caller must hold no database connection.

    A request has just asked Redis about its session, so Redis is pinged only if it did not answer then. One caller at a
    time pings, and the first answer closes the breaker. Raises redis.RedisError.
    """
    if redis_breaker().is_open:
        ping_redis()


def ping_redis() -> None:
    """Ping Redis. The caller must hold no database connection. Raises redis.RedisError within two time-outs."""
    with redis_breaker().guard(probing=True):
        redis_client().ping()
