"""What a log line must never show, taken out of it: the last line of defence behind code that does not log it."""

import json
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote, urlsplit

SECRET_NAMES = re.compile("secret|key|token|password")
MIN_SECRET_CHARS = 6  # anything shorter is found in innocent words
MASKS = (
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "[token]"),
    (re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"), "[credentials]"),
    (re.compile(r"(?<![\w+])(\+|%2B)[1-9]\d{4,12}(\d\d)(?!\d)"), r"…\2"),  # a mobile number's last two digits
)


def secrets_of(settings: Mapping[str, object]) -> list[str]:
    """The values of settings that are secret: by their names, and the passwords within URLs."""
    found = set()
    for name, value in settings.items():
        if not isinstance(value, str):
            continue
        if SECRET_NAMES.search(name):
            found.add(value)
        password = urlsplit(value).password if "://" in value else None
        if password:
            found |= {password, unquote(password)}
    spelled = {spelling for value in found for spelling in (value, json.dumps(value)[1:-1])}
    return sorted((value for value in spelled if len(value) >= MIN_SECRET_CHARS), key=len, reverse=True)


def redact(line: str, secrets: Iterable[str] = ()) -> str:
    """A line of the log without these secrets, tokens, credentials in URLs, and whole mobile numbers."""
    for secret in secrets:
        if secret in line:
            line = line.replace(secret, "[secret]")
    for pattern, mask in MASKS:
        line = pattern.sub(mask, line)
    return line


def first_line(error: BaseException) -> str:
    """An error in one line, for what is known to happen and needs no traceback."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, the first cause first."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from chain(earlier)
    yield error


def traceback_without_data(error: BaseException) -> str:
    """A traceback with the first line of each error alone: PostgreSQL puts the whole row into the others."""
    parts = []
    for link in chain(error):
        parts += ["Traceback (most recent call last):\n", *traceback.format_tb(link.__traceback__), first_line(link)]
        parts += ["\n"]
    return "".join(parts).rstrip()
