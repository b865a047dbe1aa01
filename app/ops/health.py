"""Whether the dependencies answer, and whether replies are being generated."""

import logging
import math
from dataclasses import dataclass
from datetime import datetime

import redis
import sqlalchemy.exc
from sqlalchemy import text

from app.core.celery import last_tasks
from app.core.clock import database_now
from app.core.db import answers_within, db
from app.core.logging import first_line
from app.core.redis import ping_redis
from app.core.transactions import release_connection
from app.ops import totals

PING_SECONDS = 2.0  # for PostgreSQL's answer
DEPENDENCY, QUEUE, BEAT, WORKER = 1, 2, 3, 4  # exit codes of `flask health`

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """One check and its result. `exit_code`: what `flask health` exits with if the check failed."""

    name: str
    passed: bool
    measured: str
    exit_code: int


def checks(
    *, now: datetime, max_queued_seconds: float, max_tick_seconds: float, max_worker_seconds: float
) -> list[Check]:
    """Check the dependencies, the queue, beat and each worker process. Skips checks whose server does not answer."""
    problems = dict.fromkeys(failing_dependencies(), "does not answer")
    found: list[Check] = []
    try:
        if "postgres" not in problems:
            by_postgres = database_now()
            found += [queue_check(by_postgres, max_queued_seconds), beat_check(by_postgres, max_tick_seconds)]
    except sqlalchemy.exc.SQLAlchemyError as error:  # as before the first migration
        problems["postgres"] = first_line(error)
    try:
        if "redis" not in problems:
            found += worker_checks(now, max_worker_seconds)
    except redis.RedisError as error:
        problems["redis"] = first_line(error)
    servers = ("postgres", "redis")
    return [Check(name, name not in problems, problems.get(name, "answers"), DEPENDENCY) for name in servers] + found


def failing_dependencies() -> list[str]:
    """Names of the dependencies that do not answer, each asked within its time-out. The log says why."""
    failing = []
    try:
        with answers_within(PING_SECONDS):
            db.session.execute(text("SELECT 1"))
    except sqlalchemy.exc.SQLAlchemyError as error:
        log.warning("PostgreSQL does not answer: %s", first_line(error))
        db.session.rollback()
        failing.append("postgres")
    release_connection()
    try:
        ping_redis()
    except redis.RedisError as error:
        log.warning("Redis does not answer: %s", first_line(error))
        failing.append("redis")
    return failing


def queue_check(now: datetime, max_seconds: float) -> Check:
    """Whether the oldest due reply has waited too long for a worker."""
    queue = totals.queue(now)
    waits = queue.oldest_due_seconds
    measured = f"the oldest due reply has waited {waits:.0f} s; {sum(queue.by_status.values())} unfinished"
    return Check("queue", waits <= max_seconds, measured, QUEUE)


def beat_check(now: datetime, max_seconds: float) -> Check:
    """Whether beat's last tick is recent."""
    age = totals.seconds_since_tick(now)
    measured = f"last tick {age:.0f} s ago" if age < math.inf else "no tick yet"
    return Check("beat", age <= max_seconds, measured, BEAT)


def worker_checks(now: datetime, max_seconds: float) -> list[Check]:
    """A check for each worker process that took a task within the last hour and has not shut down cleanly since."""
    ages = {name: max(0.0, (now - taken_at).total_seconds()) for name, taken_at in last_tasks(now).items()}
    return [
        Check(f"worker {name}", age <= max_seconds, f"last took a task {age:.0f} s ago", WORKER)
        for name, age in sorted(ages.items())
    ]
