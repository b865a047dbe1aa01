"""Admitting a request of a session: is the session active, and is its user within the limit? One round trip to Redis.

An API key counts as a session here.

`session:{id}` holds the user's id while the session is active, for ACTIVE_SECONDS, written (NX) after a look into
PostgreSQL, which the auth feature does. The end of a session replaces it, after the commit, by a tombstone that
outlives any entry: a look that was begun before writes nothing over it. Without Redis each request asks PostgreSQL.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import redis

from app.core import settings
from app.core.limits import REQUESTS, enforce, raise_rate_limited
from app.core.logging import first_line
from app.core.redis import RedisRests, asking_redis, rate_limits, redis_client

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


def admit(session_id: UUID, user_id: UUID, now: datetime, validate: SessionValidator) -> bool:
    """Whether the session is active; a request of one counts against its user's limit. Raises RateLimited.

    validate: whether it is by PostgreSQL. Holds no database connection afterwards.
    """
    try:
        with asking_redis():
            entry, count = ask(session_id, user_id)
            if count > (settings().rate_limit_per_minute or count):
                raise_rate_limited(REQUESTS.item(1), f"user:{user_id}")
    except redis.RedisError as error:
        if not isinstance(error, RedisRests):
            log.warning("Redis knows no sessions and counts no requests: %s", first_line(error))
        return validate(session_id, user_id, now)
    if entry is None:
        if not validate(session_id, user_id, now):
            return False
        remember_active(session_id, user_id)
        enforce(REQUESTS, f"user:{user_id}")
        return True
    return entry == str(user_id).encode()


def ask(session_id: UUID, user_id: UUID) -> tuple[bytes | None, int]:
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
    """Put a tombstone on each session, after the commit that ended it. Raises redis.RedisError."""
    pipeline = redis_client().pipeline(transaction=False)
    for session_id in session_ids:
        pipeline.set(session_key(session_id), TOMBSTONE, ex=TOMBSTONE_SECONDS)
    pipeline.execute()


def session_key(session_id: UUID) -> str:
    """The session's key in Redis."""
    return f"session:{session_id}"
