"""What the stand-in is told to do, by directives in a prompt or for every request, and waiting on the client's socket.

A waiting request costs a sleeping thread and no CPU: it sits in one poll() on the client's socket (so it
notices when the client leaves) and on wakers (so that it can be let go).
"""

import contextlib
import json
import math
import re
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, request

from sandbox.gemini.errors import BLOCK_REASONS, FINISH_REASONS

LONGEST_HANG_SECONDS = 600.0
# POLLRDHUP is Linux; elsewhere a readable socket in mid-request means that the client has closed it.
CLIENT_LEFT = getattr(select, "POLLRDHUP", select.POLLIN)

Fields = dict[str, Any]


@dataclass(frozen=True)
class Behaviour:
    """How to treat one request; the package's docstring explains each field. Times are in seconds."""

    delay: float = 0.0
    pace: float = 0.0
    status: int | None = None
    retry_after: float | None = None
    block: str | None = None
    finish: str | None = None
    empty: bool = False
    hang: bool = False
    hang_after: int | None = None
    trickle: float | None = None
    drop: bool = False
    drop_after: int | None = None
    garbage: bool = False
    unknown_fields: bool = False
    words: int | None = None
    say: str | None = None
    think: float = 0.0
    thinking_tokens: int = 0
    cached_tokens: int = 0
    model_version: str | None = None
    quota: str | None = None
    block_after: int | None = None
    empty_end: bool = False
    extras: bool = False


# `times` ends these; what shapes a good answer (delay, pace, words, say, think and so on) stays.
FAULTS = frozenset(
    {"status", "retry_after", "block", "finish", "empty", "hang", "hang_after", "trickle"}
    | {"drop", "drop_after", "garbage", "quota", "block_after"}
)

DIRECTIVE = re.compile(r'\[\[sandbox:((?:"(?:\\.|[^"\\])*"|(?!\]\])[^"])*)\]\]', re.DOTALL)
TOKEN = re.compile(r'\s*([a-z_]+)(?:=("(?:\\.|[^"\\])*"|[^\s"]+))?(?=\s|$)', re.DOTALL)


class UnknownBehaviourError(ValueError):
    """A directive or a control request that cannot be understood; the message is for its author."""


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= float(value) <= 3600:
        raise ValueError
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value) or not 0 <= int(value) <= 100_000:
        raise ValueError
    return int(value)


def _status(value: Any) -> int:
    if not 400 <= _count(value) <= 599:
        raise ValueError
    return _count(value)


def _flag(value: Any) -> bool:
    if value in (True, "true", 1, "1"):
        return True
    if value in (False, "false", 0, "0"):
        return False
    raise ValueError


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # a lone surrogate cannot be sent back as UTF-8
    return value


def _one_of(names: Mapping[str, int], default: str | None = None) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value is True and default:
            return default
        if value not in names:
            raise ValueError
        return str(value)

    return read


READERS: Mapping[str, Callable[[Any], Any]] = {
    "delay": _seconds,
    "pace": _seconds,
    "status": _status,
    "retry_after": _seconds,
    "times": _count,
    "block": _one_of(BLOCK_REASONS, default="SAFETY"),
    "finish": _one_of(FINISH_REASONS),
    "empty": _flag,
    "hang": _flag,
    "hang_after": _count,
    "trickle": lambda value: 0.1 if value is True else _seconds(value),
    "drop": _flag,
    "drop_after": _count,
    "garbage": _flag,
    "unknown_fields": _flag,
    "words": _count,
    "say": _text,
    "think": _seconds,
    "thinking_tokens": _count,
    "cached_tokens": _count,
    "model_version": _text,
    "quota": _one_of({"minute": 1, "day": 2}, default="minute"),
    "block_after": _count,
    "empty_end": _flag,
    "extras": _flag,
}


def read_fields(raw: Mapping[str, Any]) -> Fields:
    """Check names and values and return them typed; null means "not given". Raises UnknownBehaviourError."""
    fields: Fields = {}
    for name, value in raw.items():
        known = "say" if name == "echo" else name
        if known not in READERS:
            raise UnknownBehaviourError(f"[sandbox] There is no directive {name!r}; known: {', '.join(READERS)}.")
        if value is None:
            continue
        try:
            fields[known] = READERS[known](value)
        except (ValueError, TypeError, OverflowError):
            raise UnknownBehaviourError(f"[sandbox] {value!r} is not a value for {name!r}.") from None
    return fields


def directives_in(prompt: str) -> Fields:
    """Return the fields of every `[[sandbox: …]]` in a prompt. Raises UnknownBehaviourError."""
    raw: Fields = {}
    for directive in DIRECTIVE.finditer(prompt):
        text, position = directive[1].strip(), 0
        while position < len(text):
            token = TOKEN.match(text, position)
            if token is None:
                raise UnknownBehaviourError(f"[sandbox] Cannot read the directive at {text[position:]!r}.")
            raw[token[1]] = _unquoted(token[2])
            position = token.end()
    return read_fields(raw)


def _unquoted(value: str | None) -> str | bool:
    if value is None:
        return True
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value, strict=False))
    except ValueError:
        raise UnknownBehaviourError(f"[sandbox] {value} is not a JSON string.") from None


def without_directives(prompt: str) -> str:
    """Return the prompt as a person would read it."""
    return " ".join(DIRECTIVE.sub(" ", prompt).split())


def without_faults(fields: Fields) -> Fields:
    """Return what is left of the fields once their failures have happened often enough."""
    return {name: value for name, value in fields.items() if name not in FAULTS}


class Waker:
    """Wakes every thread that waits on it, at once, and is then ready for the next ones."""

    def __init__(self) -> None:
        self._ends = socket.socketpair()

    def current(self) -> socket.socket:
        """Return what a thread polls on; it becomes readable when the waker fires."""
        return self._ends[0]

    def fire(self) -> None:
        """Wake all who hold the current socket."""
        fired, self._ends = self._ends, socket.socketpair()
        fired[1].close()


class Closing(Waker):
    """A waker that fires once and stays so, for the end of the process. Safe in a signal handler."""

    def fire(self) -> None:
        self._ends[1].close()


class Line:
    """The connection of the request being served, and the wakers that may cut a wait on it short."""

    def __init__(self, *, closing: Closing, released: Waker) -> None:
        self._client: socket.socket | None = request.environ.get("gunicorn.socket")
        self._closing = closing.current()
        self._released = released

    def pause(self, seconds: float) -> bool:
        """Wait; False when the client has left or the process is ending."""
        return seconds <= 0 or self._poll(seconds, None)

    def hang(self) -> bool:
        """Wait until released, 10 minutes at most; False when there is nobody left to answer."""
        return self._poll(LONGEST_HANG_SECONDS, self._released.current())

    def cut(self) -> Response:
        """Close the connection; what is returned or written after this reaches nobody."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
        return Response(status=499)

    def _poll(self, seconds: float, released: socket.socket | None) -> bool:
        poll = select.poll()
        poll.register(self._closing, select.POLLIN)
        if self._client is not None:
            poll.register(self._client, CLIENT_LEFT)
        if released is not None:
            poll.register(released, select.POLLIN)
        woken = {descriptor for descriptor, _ in poll.poll(math.ceil(seconds * 1000))}
        return not woken or (released is not None and woken == {released.fileno()})
