"""What happens to a reply, told to whoever waits for it: a Redis stream for each reply.

PostgreSQL holds the truth; a lost event costs a waiter its early wake-up and nothing else.
"""

import logging
import time
from uuid import UUID

import redis

from app.core.redis_clients import MAX_BLOCK_SECONDS, redis_client

log = logging.getLogger(__name__)

STREAM_TTL_SECONDS = 600


def stream_key(reply_id: UUID) -> str:
    return f"reply:{reply_id}:events"


def announce_end(reply_id: UUID, status: str) -> None:
    """Wake whoever waits for the reply. Raises redis.RedisError."""
    pipeline = redis_client().pipeline(transaction=False)
    pipeline.xadd(stream_key(reply_id), {"end": status}, maxlen=1_000, approximate=True)
    pipeline.expire(stream_key(reply_id), STREAM_TTL_SECONDS)
    pipeline.execute()


def wait_for_end(reply_id: UUID, seconds: float) -> None:
    """Return when the reply has ended, when `seconds` are over, or when Redis is gone."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        block_ms = max(1, int(min(left, MAX_BLOCK_SECONDS) * 1_000))
        try:
            events = redis_client(blocking=True).xread({stream_key(reply_id): "0"}, block=block_ms)
        except redis.RedisError:
            log.warning("Redis went away while a request waited for its reply")
            return
        if events:
            return
