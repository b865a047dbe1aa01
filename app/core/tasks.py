"""Celery: the broker's settings, tasks that run inside the app, and queueing a task by its name."""

import json
import logging
from datetime import datetime
from typing import Any

from celery import Celery, Task
from celery.signals import before_task_publish, task_prerun
from flask import Flask, current_app
from kombu.entity import Queue

from app.core.broker import TAKEN_TASKS_ARE_NOT_NOTED, restore_nothing
from app.core.clock import utc_now
from app.core.database import DATABASE_UNAVAILABLE
from app.core.logs import first_line
from app.core.redis_clients import TIMEOUTS, redis_client
from app.core.request_ids import request_id, set_request_id
from app.core.workers import note_task_taken

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
