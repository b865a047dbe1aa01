"""Logging: JSON lines in production, readable lines in development, the request id in both.

Every process logs through here: the application, gunicorn and Celery.
"""

import logging
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import TypeAlias

from pythonjsonlogger.json import JsonFormatter

from app.core.redaction import first_line, redact, traceback_without_data
from app.core.request_ids import request_id

__all__ = ["configure_logging", "first_line", "log_event", "log_through_root"]

READABLE = "%(levelname)-7s %(name)s: %(message)s [%(request_id)s]"
FIELDS = "%(levelname)s %(name)s %(message)s %(request_id)s"

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id() or "-"
        return True


class RedactingFormatter(logging.Formatter):
    """Shows no data of an error's, and no secret that is known to be one."""

    secrets: Iterable[str] = ()

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), self.secrets)

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - the standard library's name
        return traceback_without_data(ei[1]) if ei[1] is not None else ""


class ReadableFormatter(RedactingFormatter):
    """For people in front of a terminal."""


class JsonLineFormatter(RedactingFormatter, JsonFormatter):
    """One JSON object a line, facts as fields of their own."""


def log_event(log: logging.Logger, event: str, **facts: object) -> None:
    """Log something that happened, with facts as fields in JSON and as `name=value` for people."""
    told = {name: str(value) if not isinstance(value, int | float) else value for name, value in facts.items()}
    words = " ".join(f"{name}={value}" for name, value in told.items())
    log.info("%s %s", event, words, extra={"event": event, **told})


def configure_logging(*, level: str, as_json: bool, secrets: Iterable[str] = ()) -> None:
    """Send every log record to standard error in one format. Safe to call twice.

    secrets: what no line may show, wherever it comes from.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RequestIdFilter())
    formatter = JsonLineFormatter(FIELDS, timestamp=True) if as_json else ReadableFormatter(READABLE)
    formatter.secrets = tuple(secrets)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for noisy in ("urllib3", "kombu", "celery.worker.strategy", "celery.app.trace", "werkzeug"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_through_root(*names: str) -> None:
    """Take the handlers of these loggers away, so that their records go the way of all others."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
