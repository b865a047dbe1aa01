"""No wait on PostgreSQL is endless: a server that is reachable and silent counts as gone.

The server's own time-outs need a server that runs, and libpq waits for ever on a connection whose other end is
frozen. psycopg2 lets us wait in its stead, by poll(2), which costs about 3 µs of CPU a query. The hook is the
process's, and every thread runs it on its own connection.
"""

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg2
from psycopg2 import extensions

CONNECT_SECONDS = 2.0
PING_SECONDS = 1.0  # a connection that is slower than this to say it is alive is replaced
STATEMENT_TIMEOUT_MS = 4_000  # what the server is told
ANSWER_SECONDS = 4.3  # a little longer, so that a server that runs has the first word

_answer_seconds: ContextVar[float] = ContextVar("answer_seconds", default=ANSWER_SECONDS)


def bound_waits() -> None:
    """Give every wait of this process on PostgreSQL an end. Safe to call twice."""
    extensions.set_wait_callback(wait_for_answer)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let statements of this thread take longer, for migrations and other work without a client."""
    token = _answer_seconds.set(seconds)
    try:
        yield
    finally:
        _answer_seconds.reset(token)


def wait_for_answer(connection: Any) -> None:
    """Wait until libpq has what it waits for.

    Raises psycopg2.OperationalError when that takes too long; psycopg2 closes the connection then.
    """
    deadline = time.monotonic() + seconds_allowed(connection)
    while (state := connection.poll()) != extensions.POLL_OK:
        poller = select.poll()  # made anew, for libpq may change the socket while it connects
        poller.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1_000):
            raise psycopg2.OperationalError("PostgreSQL does not answer in time")


def seconds_allowed(connection: Any) -> float:
    """How long this wait may take: for a connection, for a sign of life, or for a statement."""
    if connection.status not in {extensions.STATUS_READY, extensions.STATUS_BEGIN, extensions.STATUS_PREPARED}:
        return CONNECT_SECONDS
    # Outside of a transaction the pool alone says something: its ping.
    answer_seconds = _answer_seconds.get()
    return min(PING_SECONDS, answer_seconds) if connection.autocommit else answer_seconds
