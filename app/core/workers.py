"""When each worker process last took a task: a sorted set in Redis, by host and process id.

A process that lives and takes nothing shows here, while the others do its work and nothing waits.
"""

import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.exceptions import RedisError

from app.core.redis_clients import redis_client

WORKERS = "workers"
GONE_AFTER = timedelta(hours=1)
NOTE_EVERY_SECONDS = 1.0  # a round trip for each task would tell no more

_noted_at = float("-inf")


def worker_name() -> str:
    """What this process is called among the workers."""
    return f"{socket.gethostname()}:{os.getpid()}"


def note_task_taken(now: datetime) -> None:
    """Note that this process takes a task, unless it did a moment ago; a Redis that takes no note is no obstacle."""
    global _noted_at  # noqa: PLW0603 - the moment is the process's
    if time.monotonic() - _noted_at < NOTE_EVERY_SECONDS:
        return
    _noted_at = time.monotonic()
    with suppress(RedisError), redis_client().pipeline(transaction=False) as pipeline:
        pipeline.zremrangebyscore(WORKERS, "-inf", (now - GONE_AFTER).timestamp())
        pipeline.zadd(WORKERS, {worker_name(): now.timestamp()})
        pipeline.execute()


def note_worker_ended() -> None:
    """Forget this process: it ends in order."""
    with suppress(RedisError):
        redis_client().zrem(WORKERS, worker_name())


def last_tasks(now: datetime) -> dict[str, datetime]:
    """When each worker process last took a task, without those gone for GONE_AFTER. Raises redis.RedisError."""
    since = (now - GONE_AFTER).timestamp()
    known: Any = redis_client().zrangebyscore(WORKERS, since, "+inf", withscores=True)
    return {name.decode(): datetime.fromtimestamp(score, UTC) for name, score in known}
