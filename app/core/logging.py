"""Logging: JSON lines in production, readable lines in development, the request id in both, no secrets in either.

Every process logs through here: the application, gunicorn and Celery. Redaction is the last line of defence, behind
code that does not log secrets in the first place.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import unquote, unquote_plus, urlsplit

from pythonjsonlogger.json import JsonFormatter

from app.core.tracing import request_id, trace_id

READABLE = "%(levelname)-7s %(name)s: %(message)s [%(request_id)s]"
FIELDS = "%(levelname)s %(name)s %(message)s %(request_id)s"
# At INFO these repeat what we log ourselves, or log too much: stripe logs a part of the key.
NOISY = (
    "alembic.runtime.plugins",
    "urllib3",
    "httpx2",
    "stripe",
    "kombu",
    "celery.worker.strategy",
    "celery.app.trace",
    "werkzeug",
)
SECRET_NAMES = re.compile("secret|key|token|password")
SECRET_OPTIONS = re.compile(r"(?<=[?&])(password|sslpassword|ssl_password)=([^&#]+)")  # of libpq's and redis-py's URLs
MIN_SECRET_CHARS = 6  # anything shorter occurs in ordinary words
MASKS = (  # each with words of which a line must have one before the pattern is tried
    (("eyJ",), re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "[token]"),
    (("gbk_",), re.compile(r"\bgbk_[\w-]+"), "[key]"),
    (("://",), re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"), "[credentials]"),
    # A mobile number except its last two digits. The sign comes before the lookbehinds: a regular expression that
    # begins with a character searches much faster.
    (("+", "%2B"), re.compile(r"(\+|%2B)(?<![\w+]\+)(?<![\w+]%2B)[1-9]\d{4,12}(\d\d)(?!\d)"), r"…\2"),
)

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure_logging(*, level: str, as_json: bool, secrets: Iterable[str] = ()) -> None:
    """Send every log record to standard error in one format. Safe to call twice.

    secrets: texts that no line may show, whatever its source.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(add_request_id)
    formatter = JsonLineFormatter(FIELDS) if as_json else ReadableFormatter(READABLE)
    formatter.secrets = tuple(secrets)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_event(log: logging.Logger, event: str, sentence: str | None = None, /, **facts: object) -> None:
    """Log an event. Its facts are fields in JSON.

    sentence: the message for people, with `%(name)s` for facts; without one it lists the facts as `name=value`.
    """
    fields = {name: value if isinstance(value, int | float) else str(value) for name, value in facts.items()}
    sentence = sentence or " ".join([event, *(f"{name}=%({name})s" for name in fields)])
    log.info(sentence, fields, extra={"event": event, **fields})


def first_line(error: BaseException) -> str:
    """Describe an error in one line, for errors that are expected and need no traceback."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def add_request_id(record: logging.LogRecord) -> bool:
    """Logging filter: add the request's id, and its trace if it is part of one."""
    record.request_id = request_id.get() or "-"
    if trace := trace_id():
        record.trace_id = trace
    return True


class RedactingFormatter(logging.Formatter):
    """Shows neither known secrets nor the data that errors carry."""

    secrets: Iterable[str] = ()

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), self.secrets)

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - the standard library's name
        return traceback_without_data(ei[1]) if ei[1] is not None else ""


class ReadableFormatter(RedactingFormatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        trace = getattr(record, "trace_id", None)
        return f"{line} [trace {trace}]" if trace else line


class JsonLineFormatter(RedactingFormatter, JsonFormatter):
    """One JSON object per line, with the facts as fields."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")


def secrets_of(settings: Mapping[str, object]) -> list[str]:
    """Return the secret values of settings: those with a secret's name, and the passwords in URLs."""
    found = set()
    for name, value in settings.items():
        if not isinstance(value, str):
            continue
        if SECRET_NAMES.search(name):
            found.add(value)
        with suppress(ValueError):  # a text that only begins like a URL
            if "://" in value and (password := urlsplit(value).password):
                found |= {password, unquote(password)}
        for _, password in SECRET_OPTIONS.findall(value):
            found |= {password, unquote_plus(password)}
    spelled = {spelling for value in found for spelling in (value, json.dumps(value)[1:-1])}
    return sorted((value for value in spelled if len(value) >= MIN_SECRET_CHARS), key=len, reverse=True)


def redact(line: str, secrets: Iterable[str] = ()) -> str:
    """Remove these secrets, tokens, keys, credentials in URLs and whole mobile numbers from a log line."""
    for secret in secrets:
        line = line.replace(secret, "[secret]")
    for words, pattern, mask in MASKS:
        if any(word in line for word in words):
            line = pattern.sub(mask, line)
    return line


def traceback_without_data(error: BaseException) -> str:
    """Format a traceback with only the first line of each error: PostgreSQL puts the whole row into the others."""
    parts = []
    for link in chain(error):
        parts += ["Traceback (most recent call last):\n", *traceback.format_tb(link.__traceback__), first_line(link)]
        parts += ["\n"]
    return "".join(parts).rstrip()


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of an error, the first cause first, then the error itself."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from chain(earlier)
    yield error
