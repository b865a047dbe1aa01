"""Logging: JSON lines in production, readable lines in development, the request id in both."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from app.core.request_ids import request_id

READABLE = "%(levelname)-7s %(name)s: %(message)s [%(request_id)s]"


class RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id() or "-"
        return True


def log_event(log: logging.Logger, event: str, **facts: object) -> None:
    """Log something that happened, with facts as fields in JSON and as `name=value` for people."""
    told = {name: str(value) if not isinstance(value, int | float) else value for name, value in facts.items()}
    log.info("%s %s", event, " ".join(f"{name}={value}" for name, value in told.items()), extra=told)


def first_line(error: BaseException) -> str:
    """An error in one line, for what is known to happen and needs no traceback."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def configure_logging(*, level: str, as_json: bool) -> None:
    """Send every log record to standard error in one format. Safe to call twice."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(
        JsonFormatter("%(levelname)s %(name)s %(message)s %(request_id)s", timestamp=True)
        if as_json
        else logging.Formatter(READABLE)
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("urllib3", "kombu", "celery.worker.strategy", "celery.app.trace", "werkzeug"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
