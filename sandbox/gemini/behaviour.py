"""What the stand-in is told to do, by a prompt's directives or for all requests, and how a request waits.

A waiting request costs a sleeping thread and no CPU: it sits in one poll() on the client's socket, to notice when the
client leaves, and on wakers, which can release it.
"""

import contextlib
import json
import math
import re
import select
import socket
from collections.abc import Container, Mapping
from typing import Annotated, Any, Literal

from flask import Response, request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sandbox.gemini.errors import BLOCK_REASONS, FINISH_REASONS, ApiError

LONGEST_HANG_SECONDS = 600.0
# Only Linux has POLLRDHUP. Elsewhere, a socket that is readable in mid-request was closed by the client.
CLIENT_LEFT = getattr(select, "POLLRDHUP", select.POLLIN)

Fields = dict[str, Any]


def _one_of(names: Container[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in names:
            raise ValueError
        return value

    return AfterValidator(check)


def _default_block(value: Any) -> Any:
    return "SAFETY" if value in (True, "true") else value


Seconds = Annotated[float, Field(ge=0, le=3600)]
Count = Annotated[int, Field(ge=0, le=100_000)]


class Behaviour(BaseModel):
    """How to treat one request; sandbox/README.md explains each field. Times are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay: Seconds = 0.0
    pace: Seconds = 0.0
    times: Count | None = None
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    retry_after: Seconds | None = None
    block: Annotated[str, _one_of(BLOCK_REASONS), BeforeValidator(_default_block)] | None = None
    finish: Annotated[str, _one_of(FINISH_REASONS)] | None = None
    empty: bool = False
    hang: bool = False
    hang_after: Count | None = None
    trickle: Seconds | None = None
    drop: bool = False
    drop_after: Count | None = None
    garbage: bool = False
    unknown_fields: bool = False
    words: Count | None = None
    say: str | None = None
    think: Seconds = 0.0
    thinking_tokens: Count = 0
    cached_tokens: Count = 0
    model_version: str | None = None
    quota: Literal["minute", "day"] | None = None
    block_after: Count | None = None
    empty_end: bool = False
    extras: bool = False


# `times` ends these; fields that shape a good answer (delay, pace, words, say, think and so on) stay.
FAULTS = frozenset(
    {"status", "retry_after", "block", "finish", "empty", "hang", "hang_after", "trickle"}
    | {"drop", "drop_after", "garbage", "quota", "block_after"}
)

DIRECTIVE = re.compile(r'\[\[sandbox:((?:"(?:\\.|[^"\\])*"|(?!\]\])[^"])*)\]\]', re.DOTALL)
TOKEN = re.compile(r'\s*([a-z_]+)(?:=("(?:\\.|[^"\\])*"|[^\s"]+))?(?=\s|$)', re.DOTALL)


def read_fields(raw: Any) -> Fields:
    """Check names and values, and return them typed. null means "not given". Raises ApiError."""
    if not isinstance(raw, Mapping):
        raise ApiError(400, "[sandbox] A JSON object of behaviour fields is expected.")
    try:
        given = Behaviour.model_validate({name: value for name, value in raw.items() if value is not None})
    except ValidationError as error:
        flaw, known = error.errors()[0], ", ".join(Behaviour.model_fields)
        name = flaw["loc"][0]
        if flaw["type"] == "extra_forbidden":
            raise ApiError(400, f"[sandbox] There is no directive {name!r}; known: {known}.") from None
        raise ApiError(400, f"[sandbox] {raw[str(name)]!r} is not a value for {name!r}.") from None
    return given.model_dump(exclude_unset=True)


def directives_in(prompt: str) -> Fields:
    """Return the fields of every `[[sandbox: …]]` in a prompt. Raises ApiError."""
    raw: Fields = {}
    for directive in DIRECTIVE.finditer(prompt):
        text, position = directive[1].strip(), 0
        while position < len(text):
            token = TOKEN.match(text, position)
            if token is None:
                raise ApiError(400, f"[sandbox] Cannot read the directive at {text[position:]!r}.")
            raw[token[1]] = _unquoted(token[2])
            position = token.end()
    return read_fields(raw)


def _unquoted(value: str | None) -> str:
    if value is None:
        return "true"
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value, strict=False))
    except ValueError:
        raise ApiError(400, f"[sandbox] {value} is not a JSON string.") from None


def without_directives(prompt: str) -> str:
    """Return the prompt without its directives, as a person would read it."""
    return " ".join(DIRECTIVE.sub(" ", prompt).split())


def without_faults(fields: Fields) -> Fields:
    """Return the fields that remain once the failures have happened `times` times."""
    return {name: value for name, value in fields.items() if name not in FAULTS}


class Waker:
    """Wakes all waiting threads at the same time. Others can wait on it afterwards."""

    def __init__(self) -> None:
        self._ends = socket.socketpair()

    def current(self) -> socket.socket:
        """Return the socket that a thread polls. It becomes readable when the waker fires."""
        return self._ends[0]

    def fire(self) -> None:
        """Wake every thread that polls the current socket."""
        fired, self._ends = self._ends, socket.socketpair()
        fired[1].close()


class Closing(Waker):
    """A waker that fires once, for good, when the process ends. Safe in a signal handler."""

    def fire(self) -> None:
        self._ends[1].close()


class Line:
    """The connection of the request being served, and the wakers that may cut a wait on it short."""

    def __init__(self, *, closing: Closing, released: Waker) -> None:
        self._client: socket.socket | None = request.environ.get("gunicorn.socket")
        self._closing = closing.current()
        self._released = released

    def pause(self, seconds: float) -> bool:
        """Wait. Returns False if the client has left or the process is ending."""
        return seconds <= 0 or self._poll(seconds, None)

    def hang(self) -> bool:
        """Wait until released, 10 minutes at most. Returns False if nobody is left to answer."""
        return self._poll(LONGEST_HANG_SECONDS, self._released.current())

    def cut(self) -> Response:
        """Close the connection. What is returned or written afterwards reaches nobody."""
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
