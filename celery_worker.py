"""What Celery runs: `celery -A celery_worker worker`. Beat is `celery_beat.py`."""

import gc
import logging
import time
import warnings
from importlib import import_module
from typing import Any

from celery import signals
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from app.core.celery import remove_worker_record
from app.core.http import add_drain_signal
from app.core.logging import first_line
from app.factory import TASKS, create_app
from app.generation.worker import FINISH_WITHIN_SECONDS, FinishingPool
from app.integrations.gemini.client import ClientNotConfigured

CONNECT_EVERY_SECONDS = 1.0  # a shutdown may wait that long, and so may tasks once Redis is back

log = logging.getLogger(__name__)


class PausingConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, but while Redis is away it tries to connect once in CONNECT_EVERY_SECONDS.

    If Redis answers with errors, connections soon fail: without a pause, six times a second, with tracebacks. If it
    does not answer, Celery would wait longer after each failure, up to 30 s, and log each.
    """

    connects_at = 0.0  # on time.monotonic()

    def connect(self) -> Any:
        """Connect to the broker. Pauses first if the last attempt was less than CONNECT_EVERY_SECONDS ago."""
        time.sleep(max(0.0, self.connects_at - time.monotonic()))
        self.connects_at = time.monotonic() + CONNECT_EVERY_SECONDS
        return super().connect()

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however often that fails. Each kind of failure is logged once."""
        logged = set()

        def log_once(error: Exception, _pause_seconds: float) -> None:
            if (failure := first_line(error)) not in logged:
                log.error("Redis is unavailable, so this worker takes no tasks; trying again each second: %s", failure)
            logged.add(failure)

        pause = {"interval_start": CONNECT_EVERY_SECONDS, "interval_max": CONNECT_EVERY_SECONDS}
        connected = conn.ensure_connection(log_once, **pause, callback=maybe_shutdown)
        self.first_connection_attempt = False
        return connected


@signals.worker_init.connect
def choose_classes(sender: Any, **_: Any) -> None:
    """Use our pool, whose threads finish what they have taken, and our consumer, which pauses between connections."""
    sender.consumer_cls, sender.pool_cls = PausingConsumer, FinishingPool


@signals.celeryd_after_setup.connect
def ignore_pending_changes(**_: Any) -> None:
    """Ignore a warning that Celery has just enabled: it comes at each lost connection, about a default that we set."""
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)


@signals.worker_init.connect
def import_tasks(**_: Any) -> None:
    """Import the tasks and the Gemini SDK, only in the worker, and start its runner. Raises SystemExit."""
    try:
        for module in TASKS:
            import_module(module)
        import_module("app.generation.tasks").start_runner(flask_app)
    except ClientNotConfigured as error:
        raise SystemExit(f"Configuration: {error}") from None
    except Exception as error:  # Celery would log it and run a worker without tasks
        log.exception("The worker cannot start: its tasks could not be imported, or its runner could not be started")
        raise SystemExit(1) from error
    signals.worker_shutting_down.connect(release_in_time)
    gc.collect()
    gc.freeze()  # modules stay anyway, and a collection that scans them delays every reply


def release_in_time(**_: Any) -> None:
    """Let calls in flight run for FINISH_WITHIN_SECONDS, then release their replies. Tell long chores to end."""
    add_drain_signal(lambda: True)
    flask_app.extensions["runner"].keeper.abort_calls_after(FINISH_WITHIN_SECONDS)


@signals.worker_shutdown.connect
def sign_off(**_: Any) -> None:
    """Remove this process from the list that `flask health` watches."""
    with flask_app.app_context():
        remove_worker_record()


flask_app = create_app(routes=False, commands=False)
celery_app = flask_app.extensions["celery"]
