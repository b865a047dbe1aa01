"""Redis: the list cache, the limiter's storage and plain clients, all with bounded waits."""

from typing import Any, cast

import redis
from flask import Flask, current_app
from flask_caching import Cache
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits.strategies import RateLimiter

TIMEOUT_SECONDS = 0.8  # for a connection and for an answer each: a request meets at most a few of them
TIMEOUTS = {"socket_connect_timeout": TIMEOUT_SECONDS, "socket_timeout": TIMEOUT_SECONDS}
MAX_BLOCK_SECONDS = 5  # a blocking read asks again this often, so a silent Redis is noticed

cache = Cache()
limiter = Limiter(key_func=get_remote_address, strategy="fixed-window", swallow_errors=True)


def register_redis(app: Flask, url: str, *, list_ttl_seconds: int) -> None:
    """Connect the extensions that live on Redis. Nothing is contacted before it is needed."""
    options: dict[str, Any] = TIMEOUTS | ({"ssl_cert_reqs": "required"} if url.startswith("rediss://") else {})
    app.config.update(
        CACHE_TYPE="RedisCache",
        CACHE_REDIS_URL=url,
        CACHE_KEY_PREFIX="cache:",
        CACHE_DEFAULT_TIMEOUT=list_ttl_seconds,
        CACHE_OPTIONS=options,
        RATELIMIT_STORAGE_URI=url,
        RATELIMIT_STORAGE_OPTIONS=options,
    )
    cache.init_app(app)
    limiter.init_app(app)
    app.extensions["rate_limits"] = limiter.limiter
    app.extensions["redis"] = redis.Redis.from_url(url, **options)
    blocking = options | {"socket_timeout": MAX_BLOCK_SECONDS + TIMEOUT_SECONDS}
    app.extensions["redis_blocking"] = redis.Redis.from_url(url, **blocking)


def redis_client(*, blocking: bool = False) -> redis.Redis:
    """A client; `blocking` for reads that wait, up to MAX_BLOCK_SECONDS each."""
    return cast(redis.Redis, current_app.extensions["redis_blocking" if blocking else "redis"])


def rate_limits() -> RateLimiter:
    """flask-limiter's strategy and, as its `storage`, the counters in Redis; for limits that a use case applies."""
    return cast(RateLimiter, current_app.extensions["rate_limits"])


def require_redis() -> None:
    """Ask Redis for a sign of life. Raises redis.RedisError within two timeouts."""
    redis_client().ping()
