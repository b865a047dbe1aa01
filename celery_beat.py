"""What queues the tasks that run by themselves: `python celery_beat.py`, one process of it.

It knows the schedule and the broker, and not the application.
"""

import json
import logging
import subprocess  # nosec B404
import sys
from typing import Any

from celery import Celery, signals
from celery.beat import SchedulingError

from app.core.broker import broker_settings
from app.core.logging import configure_logging, first_line


def main() -> None:
    """Queue tasks until told to end. Raises SystemExit when a setting is wrong."""
    asked = subprocess.run([sys.executable, "-m", "app.schedule"], stdout=subprocess.PIPE, check=False)  # nosec B603
    if asked.returncode:
        sys.exit(asked.returncode)  # it has said why
    needed = json.loads(asked.stdout)
    configure_logging(**needed["logging"])
    logging.getLogger("celery.beat").addFilter(shorten_scheduling_error)
    signals.setup_logging.connect(keep_logging)
    celery = Celery("gemini_backend")
    celery.conf.update(broker_settings(needed["redis_url"], pool_size=needed["pool_size"]))
    celery.conf.beat_schedule = needed["schedule"]
    # A schedule in memory: nothing is lost with it, since everything is asked for again within an hour.
    celery.Beat(scheduler="celery.beat.Scheduler", quiet=True, loglevel="INFO").run()


def keep_logging(**_: Any) -> None:
    """Keep the logging as it is: without a receiver, Celery installs its own."""


def shorten_scheduling_error(record: logging.LogRecord) -> bool:
    """Log a task that the broker refuses in one line: beat adds two stacks, several times in ten seconds."""
    if record.levelno >= logging.ERROR and record.exc_info and isinstance(record.exc_info[1], SchedulingError):
        record.msg, record.args = "%s; beat asks again when it is due", (first_line(record.exc_info[1]),)
        record.exc_info = None
    return True


if __name__ == "__main__":
    main()
