"""One line for each task: which, about what, what came of it, how long it took. For Celery's processes alone."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from celery import Task
from celery.beat import SchedulingError
from celery.signals import setup_logging, task_postrun, task_prerun

from app.core.logs import first_line

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
