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

from app.core.celery import note_worker_ended
from app.core.http import add_drain_signal
from app.factory import TASKS, create_app
from app.generation.worker import FINISH_WITHIN_SECONDS, FinishingPool
from app.integrations.gemini.client import ClientNotConfigured

CONNECT_EVERY_SECONDS = 1.0  # at most: a shutdown may wait that long, and so may tasks once Redis is well

log = logging.getLogger(__name__)


class PausingConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which connects at most once in CONNECT_EVERY_SECONDS.

    A Redis that answers with errors lets it connect, then fails: that went round six times a second, with tracebacks.
    """

    connects_at = 0.0  # on time.monotonic()

    def connect(self) -> Any:
        """Connect to the broker: at once if the last connection lasted."""
        time.sleep(max(0.0, self.connects_at - time.monotonic()))
        self.connects_at = time.monotonic() + CONNECT_EVERY_SECONDS
        return super().connect()


@signals.worker_init.connect
def choose_classes(sender: Any, **_: Any) -> None:
    """Let threads finish what they have taken, and a Redis that answers with errors be asked once a second."""
    sender.consumer_cls, sender.pool_cls = PausingConsumer, FinishingPool


@signals.celeryd_after_setup.connect
def ignore_pending_changes(**_: Any) -> None:
    """Celery has just switched this warning on: it would come at each lost connection, about a default that we set."""
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)


@signals.worker_init.connect
def import_tasks(**_: Any) -> None:
    """Import tasks and the Gemini SDK in the worker alone, and make its runner. Raises SystemExit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the SDK's end of support: decision 0008
            for module in TASKS:
                import_module(module)
            import_module("app.generation.tasks").start_runner(flask_app)
    except ClientNotConfigured as error:
        raise SystemExit(f"Configuration: {error}") from None
    except Exception as error:  # Celery would log it and run a worker that knows no task
        log.exception("The worker's tasks cannot be imported, or its runner not be made")
        raise SystemExit(1) from error
    signals.worker_shutting_down.connect(release_in_time)
    gc.collect()
    gc.freeze()  # modules stay: a look through all of them would hold every reply up


def release_in_time(**_: Any) -> None:
    """Give calls under way FINISH_WITHIN_SECONDS, then release their replies; let long chores end."""
    add_drain_signal(lambda: True)
    flask_app.extensions["runner"].keeper.abort_calls_after(FINISH_WITHIN_SECONDS)


@signals.worker_shutdown.connect
def sign_off(**_: Any) -> None:
    """Take this process off the list that `flask health` watches."""
    with flask_app.app_context():
        note_worker_ended()


flask_app = create_app(routes=False, commands=False)
celery_app = flask_app.extensions["celery"]
