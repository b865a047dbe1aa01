"""What Celery runs: `celery -A celery_worker worker` and `celery -A celery_worker beat`."""

import logging
import sys
import warnings
from importlib import import_module
from typing import Any

from celery.signals import worker_init, worker_process_shutdown, worker_shutdown

import app.core.celery  # noqa: F401 - it listens to Celery's signals
from app import create_app
from app.core.celery import note_worker_ended
from app.integrations.gemini.client import SdkMissing, model_client_class
from config import ConfigError

log = logging.getLogger(__name__)

FEATURES_WITH_TASKS = ("generation", "messages", "billing", "auth", "account", "ops")

try:
    flask_app = create_app()
except ConfigError as error:
    sys.exit(f"Configuration: {error}")

celery_app = flask_app.extensions["celery"]


@worker_init.connect
def import_tasks(**_: Any) -> None:
    """Tasks and the Gemini SDK are the worker's alone: beat queues them by name."""
    if not flask_app.extensions["settings"].gemini_api_key:
        raise SystemExit("Configuration: GEMINI_API_KEY is not set; the worker cannot ask Gemini without it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the SDK's end of support: decision 0005
            model_client_class(flask_app.extensions["settings"].gemini_sdk)
            for feature in FEATURES_WITH_TASKS:
                import_module(f"app.{feature}.tasks")
    except SdkMissing as error:
        raise SystemExit(f"Configuration: {error}") from None
    except Exception as error:  # Celery would log it and run a worker that knows no task
        log.exception("A task module cannot be imported")
        raise SystemExit(1) from error


@worker_shutdown.connect
@worker_process_shutdown.connect
def leave(**_: Any) -> None:
    with flask_app.app_context():
        note_worker_ended()
