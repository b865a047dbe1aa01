"""Whether the process answers, whether what it needs does, and whether replies get done."""

from dataclasses import dataclass
from datetime import datetime

import redis
import sqlalchemy.exc
from sqlalchemy import text

from app.core.database import db
from app.core.redis_clients import require_redis
from app.core.transactions import release_connection
from app.messages import statistics
from app.ops import rollup

DEPENDENCY, QUEUE, BEAT = 1, 2, 3  # exit codes of `flask health`


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `exit_code` is what a failure is told by."""

    name: str
    passed: bool
    measured: str
    exit_code: int


def failing_dependencies() -> list[str]:
    """Names of the dependencies that do not answer, each asked within its time-out."""
    failing = []
    try:
        db.session.execute(text("SELECT 1"))
    except sqlalchemy.exc.SQLAlchemyError:
        db.session.rollback()
        failing.append("postgres")
    release_connection()
    try:
        require_redis()
    except redis.RedisError:
        failing.append("redis")
    return failing


def checks(*, now: datetime, max_queued_seconds: float, max_tick_seconds: float) -> list[Check]:
    """Dependencies, the queue, and beat; what needs PostgreSQL is left out when that does not answer."""
    failing = failing_dependencies()
    found = [
        Check(name, name not in failing, "does not answer" if name in failing else "answers", DEPENDENCY)
        for name in ("postgres", "redis")
    ]
    if "postgres" in failing:
        return found
    queue = statistics.queue(now)
    waits = queue.oldest_due_seconds
    measured = f"the oldest reply that is due has waited {waits:.0f} s; {sum(queue.by_status.values())} unfinished"
    found.append(Check("queue", waits <= max_queued_seconds, measured, QUEUE))
    last = rollup.last_beat(rollup.BEAT)
    age = (now - last).total_seconds() if last else None
    measured = "no tick so far" if age is None else f"last tick {age:.0f} s ago"
    found.append(Check("beat", age is not None and age <= max_tick_seconds, measured, BEAT))
    return found
