"""Celery: tasks that run inside the app, and queueing a task by its name."""

import json
import logging
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery, Task
from celery.signals import before_task_publish
from flask import Flask, current_app
from redis.exceptions import RedisError

from app.core.broker import broker_settings
from app.core.clock import utc_now
from app.core.db import DATABASE_UNAVAILABLE, log_database_error
from app.core.logging import first_line, log_event
from app.core.redis import redis_client
from app.core.tracing import TRACE_HEADER, request_id, span, traceparent

TASK_REQUEST_ID = "request_id"
PUBLISHED_HEADER = "published_at"
WORKERS = "workers"  # a sorted set in Redis: when each worker process last took a task, by host and process id
WORKER_FORGOTTEN_AFTER = timedelta(hours=1)
NOTE_EVERY_SECONDS = 1.0  # noting each task would cost a round trip and tell nothing more

log = logging.getLogger(__name__)
task_log = logging.getLogger("app.tasks")


class AppTask(Task):  # type: ignore[misc]
    """A task that runs inside an application context, under the id of the request that queued it, and logs one line.

    If PostgreSQL is unavailable, the task ends: its row is still there, and a sweep queues it again.
    """

    flask_app: Flask
    noted_at = float("-inf")  # by time.monotonic(); one for all tasks of this process

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request_id.set(self.request.get(TASK_REQUEST_ID))
        traceparent.set(self.request.get(TRACE_HEADER))
        began, outcome = time.monotonic(), "failure"
        try:
            with self.flask_app.app_context(), span(self.name, "CONSUMER"):
                self.note_taken(utc_now())
                result = self.run(*args, **kwargs)
        except DATABASE_UNAVAILABLE as error:
            log_database_error(log, "the task ended, and a sweep will retry it", error)
            result, outcome = None, "unavailable"
        else:
            outcome = "success"
        finally:
            self.log_outcome(outcome, str(args[0]) if args else "-", time.monotonic() - began)
        return result

    def note_taken(self, now: datetime) -> None:
        """Record that this process has taken a task, at most once a second and only if Redis answers."""
        if time.monotonic() - AppTask.noted_at < NOTE_EVERY_SECONDS:
            return
        AppTask.noted_at = time.monotonic()
        with suppress(RedisError), redis_client().pipeline(transaction=False) as pipeline:
            pipeline.zremrangebyscore(WORKERS, "-inf", (now - WORKER_FORGOTTEN_AFTER).timestamp())
            pipeline.zadd(WORKERS, {worker_name(): now.timestamp()})
            pipeline.execute()

    def log_outcome(self, outcome: str, subject: str, seconds: float) -> None:
        """Log what became of the task. subject: its first argument, an id."""
        facts = {"task": self.name, "task_id": self.request.id, "subject": subject, "outcome": outcome}
        sentence = "%(task)s(%(subject)s) %(outcome)s in %(duration_ms)s ms, task id %(task_id)s"
        log_event(task_log, "task", sentence, **facts, duration_ms=round(seconds * 1_000, 1))


def register_celery(app: Flask, url: str, *, pool_size: int, routes: dict[str, dict[str, str]]) -> None:
    """Set up Celery: tasks run in this app, a worker takes one per thread, and queueing one never blocks for long.

    pool_size: connections that this process opens to queue tasks. routes: the queue of each task that is not a chore.
    """
    celery = Celery("gemini_backend", task_cls=type("TaskOfApp", (AppTask,), {"flask_app": app}))
    celery.conf.update(
        **broker_settings(url, pool_size=pool_size),
        task_routes=routes,
        task_acks_late=True,  # a task counts as held until it ends, not until it begins
        worker_prefetch_multiplier=1,  # a worker holds a task per thread, counted anew for each connection
        worker_disable_prefetch=True,  # the same bound, but tasks taken over an earlier connection count too
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    celery.set_default()
    logging.getLogger("celery.app.trace").addFilter(shorten_task_error)
    _ = celery.pool, celery.producer_pool  # made now, in this order: otherwise several threads could each make one
    before_task_publish.connect(add_task_headers)
    app.extensions["celery"] = celery


def shorten_task_error(record: logging.LogRecord) -> bool:
    """Logging filter: keep one line of a task's error. Celery logs all of it, and PostgreSQL adds the whole row."""
    context = record.__dict__.pop("data", None)
    if context and record.exc_info and record.exc_info[1]:
        record.msg = "Task %s[%s] failed: %s"
        record.args = context["name"], context["id"], first_line(record.exc_info[1])
    return True


def enqueue(task_name: str, *args: str, delay_seconds: float = 0) -> None:
    """Queue a task by its name. Its arguments are ids. Raises an error if the broker does not answer in time."""
    celery: Celery = current_app.extensions["celery"]
    celery.send_task(task_name, args=args, countdown=delay_seconds, retry=False)


def add_task_headers(headers: dict[str, Any], **_: Any) -> None:
    """Add the request's id, its trace and the time of queueing to a task's headers."""
    headers[TASK_REQUEST_ID] = request_id.get()
    headers[TRACE_HEADER] = traceparent.get()
    headers[PUBLISHED_HEADER] = utc_now().isoformat()


def next_published_at(queue: str) -> datetime | None:
    """Return when the task that workers take next was queued, or None if none is waiting or Redis does not tell.

    kombu keeps a queue as a list of JSON documents in Redis, the oldest at its end.
    """
    try:
        oldest: Any = redis_client().lindex(queue, -1)
        return datetime.fromisoformat(json.loads(oldest)["headers"][PUBLISHED_HEADER]) if oldest else None
    except (RedisError, ValueError, KeyError, TypeError):
        return None


def last_tasks(now: datetime) -> dict[str, datetime]:
    """Return when each worker process last took a task, within the last hour. Raises redis.RedisError.

    Only this reveals a stuck process: the others do its work, so that nothing waits.
    """
    since = (now - WORKER_FORGOTTEN_AFTER).timestamp()
    known: Any = redis_client().zrangebyscore(WORKERS, since, "+inf", withscores=True)
    return {name.decode(): datetime.fromtimestamp(score, UTC) for name, score in known}


def remove_worker_record() -> None:
    """Remove this process's record, because it stops normally."""
    with suppress(RedisError):
        redis_client().zrem(WORKERS, worker_name())


def worker_name() -> str:
    """Return this process's name among the workers."""
    return f"{socket.gethostname()}:{os.getpid()}"
