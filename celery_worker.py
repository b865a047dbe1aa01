"""What Celery runs: `celery -A celery_worker worker`. Beat is `celery_beat.py`."""

import gc
import logging
import warnings
from importlib import import_module
from typing import Any

from celery import signals

from app.core.celery import note_worker_ended
from app.factory import create_app
from app.integrations.gemini.client import SdkMissing, model_client_class

FEATURES_WITH_TASKS = ("generation", "chatrooms", "billing", "auth", "account", "ops")

log = logging.getLogger(__name__)


def connect_signals() -> None:
    """Hook into the life of Celery's processes."""
    signals.setup_logging.connect(keep_logging)
    signals.worker_init.connect(import_tasks)
    signals.worker_shutdown.connect(sign_off)
    signals.worker_process_shutdown.connect(sign_off)


def keep_logging(**_: Any) -> None:
    """Keep the logging that the factory has set up: without a receiver, Celery installs its own."""


def import_tasks(**_: Any) -> None:
    """Import tasks and the Gemini SDK in the worker alone. Raises SystemExit."""
    settings = flask_app.extensions["settings"]
    if not settings.gemini_api_key:
        raise SystemExit("Configuration: GEMINI_API_KEY is not set; the worker cannot ask Gemini without it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the SDK's end of support: decision 0005
            model_client_class(settings.gemini_sdk)
            for feature in FEATURES_WITH_TASKS:
                import_module(f"app.{feature}.tasks")
        signals.worker_shutting_down.connect(import_module("app.generation.tasks").release_in_time)
    except SdkMissing as error:
        raise SystemExit(f"Configuration: {error}") from None
    except Exception as error:  # Celery would log it and run a worker that knows no task
        log.exception("A task module cannot be imported")
        raise SystemExit(1) from error
    gc.collect()
    gc.freeze()  # modules stay: a look through all of them would hold every reply up


def sign_off(**_: Any) -> None:
    """Take this process off the list that `flask health` watches."""
    with flask_app.app_context():
        note_worker_ended()


flask_app = create_app(commands=False)
celery_app = flask_app.extensions["celery"]
connect_signals()
