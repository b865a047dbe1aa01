"""No wait on PostgreSQL is endless: a server that is reachable and silent counts as gone.

The server's own time-outs need a server that runs, and libpq waits for ever on a connection whose other end is
frozen. psycopg2 lets us wait in its stead, by poll(2), which costs about 3 µs of CPU a query. The hook is the
process's, and every thread runs it on its own connection.
"""

import math
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

_longer_seconds: ContextVar[float | None] = ContextVar("longer_seconds", default=None)


class BoundedConnection(extensions.connection):  # type: ignore[misc]
    """A connection of our pool, whose statements are bounded; those of others in this process are not."""


def bound_waits() -> None:
    """Give every wait of this process on PostgreSQL an end. Safe to call twice."""
    extensions.set_wait_callback(wait_for_answer)


@contextmanager
def longer_statements(seconds: float) -> Iterator[None]:
    """Let statements of this thread take longer, for migrations and other work without a client."""
    token = _longer_seconds.set(seconds)
    try:
        yield
    finally:
        _longer_seconds.reset(token)


def wait_for_answer(connection: Any) -> None:
    """Wait until libpq has what it waits for.

    Raises psycopg2.OperationalError when that takes too long; psycopg2 closes the connection then.
    """
    deadline = time.monotonic() + seconds_allowed(connection)
    while (state := connection.poll()) != extensions.POLL_OK:
        poller = select.poll()  # made anew, for libpq may change the socket while it connects
        poller.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(None if left == math.inf else left * 1_000):
            raise psycopg2.OperationalError("PostgreSQL does not answer in time")


def seconds_allowed(connection: Any) -> float:
    """How long this wait may take: for a connection, for a sign of life, or for a statement."""
    if connection.status not in {extensions.STATUS_READY, extensions.STATUS_BEGIN, extensions.STATUS_PREPARED}:
        return CONNECT_SECONDS
    if not isinstance(connection, BoundedConnection):
        return math.inf
    if (longer_seconds := _longer_seconds.get()) is not None:
        return longer_seconds
    # Outside of a transaction the pool alone says something: its ping.
    return PING_SECONDS if connection.autocommit else ANSWER_SECONDS
