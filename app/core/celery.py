"""kombu's Redis transport, told to keep no books of its own on tasks that are under way.

kombu notes each task that a worker takes in Redis until the worker acknowledges it, which stopped workers for good.
An acknowledgement that failed kept its slot: when the connection broke while all slots were taken, none ever came
back, no task was asked for, and so the loss was never noticed (celery #8030, #8091). And a full Redis, which lets
tasks be taken but none be noted, ended the worker. PostgreSQL knows what is under way, and its sweeps queue again what
a worker loses, so the notes were of no use.

When each worker process last took a task: a sorted set in Redis, by host and process id.

A process that lives and takes nothing shows here, while the others do its work and nothing waits.

Celery: the broker's settings, tasks that run inside the app, and queueing a task by its name.

One line for each task: which, about what, what came of it, how long it took. For Celery's processes alone.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery, Task
from celery.beat import SchedulingError
from celery.signals import before_task_publish, setup_logging, task_postrun, task_prerun
from flask import Flask, current_app
from kombu.entity import Queue
from kombu.transport import redis as transport
from redis.exceptions import RedisError

from app.core.clock import utc_now
from app.core.db import DATABASE_UNAVAILABLE
from app.core.ids import request_id, set_request_id
from app.core.logging import first_line
from app.core.redis import TIMEOUTS, redis_client

TAKEN_TASKS_ARE_NOT_NOTED: dict[str, Any] = {"ack_emulation": False}


def restore_nothing() -> None:
    """Put no task back when a channel closes: a lost connection would have each one that runs run twice.

    kombu has no option for it. Safe to call twice.
    """
    transport.Channel.do_restore = False


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


log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "request_id"
PUBLISHED_HEADER = "published_at"
CHORES, GENERATIONS = "chores", "generations"
CONNECTIONS_OF_A_PRODUCER = 2  # kombu's channel has two pools, and uses one connection of each


class AppTask(Task):  # type: ignore[misc]
    """A task that runs inside an application context, so that services find the database.

    Without PostgreSQL it ends: what it was for is a row, and a sweep queues it again.
    """

    flask_app: Flask

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.flask_app.app_context():
            note_task_taken(utc_now())
            try:
                return self.run(*args, **kwargs)
            except DATABASE_UNAVAILABLE as error:
                log.warning("PostgreSQL is unavailable (%s): a sweep comes back to this", first_line(error))
                self.request.outcome = "unavailable"
                return None


def register_celery(
    app: Flask, url: str, *, pool_size: int, routes: dict[str, dict[str, str]], schedule: dict[str, dict[str, Any]]
) -> None:
    """Set Celery up so that no work is lost with a worker and no request waits for a broker.

    pool_size: connections that this process opens to queue tasks. routes: the queue of each task that is no chore.
    schedule: what beat asks for.
    """
    restore_nothing()
    celery = Celery("gemini_backend", task_cls=type("TaskOfApp", (AppTask,), {"flask_app": app}))
    celery.conf.update(
        broker_url=url,
        broker_pool_limit=pool_size // CONNECTIONS_OF_A_PRODUCER,
        broker_transport_options=TIMEOUTS
        | TAKEN_TASKS_ARE_NOT_NOTED
        | {"retry_on_timeout": False, "max_retries": 0, "interval_start": 0},  # kombu would try for six seconds
        broker_use_ssl={"ssl_cert_reqs": "required"} if url.startswith("rediss://") else None,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A worker takes from both by turns: a thousand replies ahead of them delay neither a login code nor a sweep.
        # Neither is declared: a list in Redis needs no declaration, which a full Redis would refuse.
        task_queues=[Queue(name, no_declare=True) for name in (CHORES, GENERATIONS)],  # type: ignore[no-untyped-call]
        task_default_queue=CHORES,
        task_routes=routes,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        task_publish_retry=False,
        beat_schedule=schedule,
        enable_utc=True,
        timezone="UTC",
    )
    celery.set_default()
    app.extensions["celery"] = celery


def enqueue(task_name: str, *args: str, delay_seconds: float = 0) -> None:
    """Queue a task by its name; its arguments are ids. Raises when the broker does not answer in time."""
    celery: Celery = current_app.extensions["celery"]
    celery.send_task(task_name, args=args, countdown=delay_seconds or None, retry=False)


def next_published_at(queue: str) -> datetime | None:
    """When the task that workers take next was published; None when none waits. Raises redis.RedisError.

    A queue is a list of JSON documents in Redis, in the order in which they came.
    """
    oldest: Any = redis_client().lindex(queue, -1)
    try:
        return datetime.fromisoformat(json.loads(oldest)["headers"][PUBLISHED_HEADER]) if oldest else None
    except (ValueError, KeyError, TypeError):
        return None


@before_task_publish.connect
def add_headers(headers: dict[str, Any], **_: Any) -> None:
    """Pass on whose request it serves, and say since when it waits."""
    headers[REQUEST_ID_HEADER] = request_id()
    headers[PUBLISHED_HEADER] = utc_now().isoformat()


@task_prerun.connect
def take_request_id_over(task: AppTask, **_: Any) -> None:
    set_request_id(task.request.get(REQUEST_ID_HEADER))


log = logging.getLogger("app.tasks")


@setup_logging.connect
def keep_our_logging(**_: Any) -> None:
    """Celery sets up logging of its own unless somebody listens here; the factory has done it already."""


def say_it_in_a_line(record: logging.LogRecord) -> bool:
    """Beat adds two stacks to each task that the broker refuses, several times in ten seconds while it does."""
    if record.levelno >= logging.ERROR and record.exc_info and isinstance(record.exc_info[1], SchedulingError):
        record.msg, record.args = "%s; beat asks again when it is due", (first_line(record.exc_info[1]),)
        record.exc_info = None
    return True


logging.getLogger("celery.beat").addFilter(say_it_in_a_line)


@task_prerun.connect
def begin(task: Task, **_: Any) -> None:
    task.request.began = time.monotonic()


@task_postrun.connect
def conclude(task_id: str, task: Task, args: Sequence[Any], state: str | None, **_: Any) -> None:
    """Say what became of a task. Its arguments are ids, so the first one says what it was about."""
    began = getattr(task.request, "began", None) or time.monotonic()
    told: dict[str, Any] = {
        "task": task.name,
        "task_id": task_id,
        "subject": str(args[0]) if args else "-",
        "outcome": getattr(task.request, "outcome", None) or (state or "unknown").lower(),
        "duration_ms": round((time.monotonic() - began) * 1_000, 1),
    }
    log.info(
        "%(task)s(%(subject)s) %(outcome)s in %(duration_ms)s ms, task id %(task_id)s",
        told,
        extra={"event": "task"} | told,
    )
