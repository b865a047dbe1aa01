"""Queues the periodic tasks: `python celery_beat.py`. Run exactly one.

It knows the schedule and the broker, but not the application.
"""

import json
import logging
import subprocess  # nosec B404
import sys
from datetime import datetime
from typing import Any

from celery import Celery
from celery.beat import Scheduler, SchedulingError

from app.core.broker import broker_settings
from app.core.logging import configure_logging, first_line


class SteadyScheduler(Scheduler):  # type: ignore[misc]
    """Celery's in-memory scheduler, but it continues when the machine's clock is set back.

    Celery's own would queue nothing until the clock shows the old time again.
    """

    seen: datetime | None = None  # the clock at the last tick

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Queue the task that is due. Returns the seconds until the next tick."""
        now = self.app.now()
        if self.seen is not None and now < self.seen:
            for entry in self.schedule.values():
                entry.last_run_at -= self.seen - now
            self.populate_heap()
        self.seen = now
        return float(super().tick(*args, **kwargs))


def main() -> None:
    """Queue tasks until told to end. Raises SystemExit when a setting is wrong."""
    completed = subprocess.run([sys.executable, "-m", "app.schedule"], stdout=subprocess.PIPE, check=False)  # nosec B603
    if completed.returncode:
        sys.exit(completed.returncode)  # it has said why
    beat_settings = json.loads(completed.stdout)
    configure_logging(**beat_settings["logging"])
    logging.getLogger("celery.beat").addFilter(shorten_scheduling_error)
    celery = Celery("gemini_backend")
    celery.conf.update(broker_settings(beat_settings["redis_url"], pool_size=beat_settings["pool_size"]))
    celery.conf.beat_schedule = beat_settings["schedule"]
    # The schedule is only in memory: nothing is lost with it, since every task is due again within an hour.
    celery.Beat(scheduler=SteadyScheduler, quiet=True, loglevel="INFO").run()


def shorten_scheduling_error(record: logging.LogRecord) -> bool:
    """Logging filter: log a SchedulingError in one line. beat adds two stack traces, several times in ten seconds."""
    if record.levelno >= logging.ERROR and record.exc_info and isinstance(record.exc_info[1], SchedulingError):
        record.msg, record.args = "%s; beat will try again when it is next due", (first_line(record.exc_info[1]),)
        record.exc_info = None
    return True


if __name__ == "__main__":
    main()
