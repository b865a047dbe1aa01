"""The database: engine settings, the base of every model, and a bound on every wait for PostgreSQL.

The server's own time-outs need a running server. libpq waits for ever for a frozen one, whose kernel still acknowledges
packets, so that `tcp_user_timeout` does not help. So psycopg2 waits through our own callback, with poll(2), which costs
about 3 µs of CPU per query. The callback is set for the process; each thread runs it for its own connection.
"""

import enum
import logging
import math
import select as polling
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast
from uuid import UUID

import psycopg2
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from psycopg2 import extensions
from sqlalchemy import Connection, DateTime, Enum, MetaData, Select, Table, event, select
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, registry
from uuid_utils.compat import uuid7

from app.core.logging import first_line

CONNECT_SECONDS = 2.0
STATEMENT_TIMEOUT_MS = 4_000  # the server's own
ANSWER_SECONDS = 4.3  # a little longer, so that a running server ends the statement itself
# Long enough for a burst to pass, and still within 5 seconds if a new connection follows. A whole number, because
# SQLAlchemy's `engine_from_config`, which Flask-SQLAlchemy calls, cuts off a fraction.
POOL_TIMEOUT_SECONDS = 2
LOCK_TIMEOUT_MS = 2_000
IDLE_IN_TRANSACTION_MS = 15_000
# SQLSTATEs of a server that cannot do its work now, in addition to class 08 (connection exceptions):
# https://www.postgresql.org/docs/current/errcodes-appendix.html
READ_ONLY = "25006"  # read_only_sql_transaction: a former primary, or one whose disk is full
UNAVAILABLE_STATES = {
    READ_ONLY,
    "53100",  # disk_full
    "53300",  # too_many_connections
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "58030",  # io_error
}
IN_TRANSACTION = "in_transaction"  # in a session's `info`
HAS_SERVED = "has_served"  # in a pooled connection's `info`, which ends with it

RowId = Annotated[UUID, mapped_column(primary_key=True, default=uuid7)]  # UUIDv7: later rows have greater ids

_allowed_seconds = ContextVar("allowed_seconds", default=ANSWER_SECONDS)


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can find them, and keeps times aware."""

    registry = registry(
        metadata=MetaData(
            naming_convention={
                "ix": "ix_%(table_name)s_%(column_0_N_name)s",
                "uq": "uq_%(table_name)s_%(column_0_N_name)s",
                "ck": "ck_%(table_name)s_%(constraint_name)s",
                "fk": "fk_%(table_name)s_%(column_0_N_name)s",
                "pk": "pk_%(table_name)s",
            }
        ),
        type_annotation_map={datetime: DateTime(timezone=True)},
    )


class DatabaseUnavailable(OperationalError):
    """PostgreSQL cannot do its work: the connection is lost, refused or silent for too long, or its disk is full."""


# PostgreSQL cannot do its work, or no connection to it came free in time.
DATABASE_UNAVAILABLE = (DatabaseUnavailable, PoolTimeoutError)
# The same, and statements that a running server ends: a deadlock, or a lock or statement that takes too long.
# Nothing was stored and a retry may succeed, but an error that keeps coming back is a defect.
TRANSIENT_DATABASE_ERRORS = (OperationalError, PoolTimeoutError)

db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})

if TYPE_CHECKING:  # mypy does not understand what Flask-SQLAlchemy makes of Base

    class Model(Base):
        """The base class of every table."""

        __abstract__ = True
        __table__: ClassVar[Table]
else:
    Model = db.Model


def register_database(app: Flask, url: str, *, pool_size: int) -> None:
    """Connect SQLAlchemy to PostgreSQL. Every statement gets an answer or an error within 5 seconds.

    If the address names several hosts, each further one may take CONNECT_SECONDS more.
    pool_size: connections of one process; a thread that finds none free waits up to POOL_TIMEOUT_SECONDS.
    """
    server_limits = {
        "statement_timeout": STATEMENT_TIMEOUT_MS,
        "lock_timeout": LOCK_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS,
        "timezone": "UTC",
        "default_transaction_isolation": r"read\ committed",  # after waiting for a lock, read the current rows
    }
    url_options = make_url(url).normalized_query.get("options", ())
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "hide_parameters": True,  # otherwise SQLAlchemy's errors show the values
        "isolation_level": "AUTOCOMMIT",  # but see `open_transaction`
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_use_lifo": True,  # take the one used last: its server process has warm caches
        "pool_timeout": POOL_TIMEOUT_SECONDS,
        "pool_recycle": 1_800,
        "connect_args": {
            "connection_factory": BoundedConnection,
            "application_name": "gemini-backend",
            "client_encoding": "utf8",  # whatever the address or PGCLIENTENCODING says
            "tcp_user_timeout": 3_000,
            "keepalives_idle": 30,
            "options": " ".join([*url_options, *(f"-c {name}={value}" for name, value in server_limits.items())]),
        },
    }
    db.init_app(app)
    extensions.set_wait_callback(wait_for_answer)
    with app.app_context():
        event.listen(db.engine, "do_connect", connect_to_first)
        event.listen(db.engine, "handle_error", translate_unavailable)
        event.listen(db.engine, "checkout", refuse_closed)
        event.listen(db.engine, "checkin", close_transaction)
    if not event.contains(db.session, "after_begin", open_transaction):
        event.listen(db.session, "after_begin", open_transaction)


class BoundedConnection(extensions.connection):  # type: ignore[misc]
    """A connection of our pool. Only its statements are bounded, not those of other connections in this process."""


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """Allow this thread's statements this many seconds: more for work that no client waits for, or less."""
    token = _allowed_seconds.set(seconds)
    try:
        yield
    finally:
        _allowed_seconds.reset(token)


def wait_for_answer(connection: Any) -> None:
    """Wait until libpq has finished what it is doing.

    Raises psycopg2.OperationalError if that takes too long; psycopg2 then closes the connection.
    """
    deadline = time.monotonic() + seconds_allowed(connection)
    while (state := connection.poll()) != extensions.POLL_OK:
        poller = polling.poll()  # a new one each time: libpq may change the socket while it connects
        poller.register(connection.fileno(), polling.POLLIN if state == extensions.POLL_READ else polling.POLLOUT)
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0 or not poller.poll(None if seconds_left == math.inf else seconds_left * 1_000):
            raise psycopg2.OperationalError("PostgreSQL did not answer in time")


def seconds_allowed(connection: Any) -> float:
    """Return how long this wait may take, for connecting or for a statement."""
    if connection.status not in {extensions.STATUS_READY, extensions.STATUS_BEGIN, extensions.STATUS_PREPARED}:
        return CONNECT_SECONDS
    if not isinstance(connection, BoundedConnection):
        return math.inf
    return _allowed_seconds.get()


def connect_to_first(_dialect: object, _record: object, _args: object, options: dict[str, Any]) -> Any:
    """Connect to the first of several hosts that accepts. Returns None to leave one host, or `hostaddr`, to SQLAlchemy.

    libpq tries the next host when one refuses, but not when one is silent: its connect_timeout does not apply where
    `wait_for_answer` does the waiting. Raises the last host's error.
    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PQCONNECTSTARTPARAMS
    """
    hosts, ports = str(options.get("host", "")).split(","), str(options.get("port", "")).split(",")
    if len(hosts) == 1 or "hostaddr" in options:
        return None
    *others, last = [options | {"host": host, "port": ports[i % len(ports)] or None} for i, host in enumerate(hosts)]
    for one in others:
        with suppress(psycopg2.OperationalError):
            return psycopg2.connect(**one)
    return psycopg2.connect(**last)


def refuse_closed(connection: Any, record: Any, _proxy: object) -> None:
    """Let the pool replace a connection that the server has closed, without a query (unlike `pool_pre_ping`).

    The only thing to read from an idle connection is its end. A new connection is not checked: if it is closed already,
    its first statement says so, whereas the pool would raise InvalidRequestError. Raises DisconnectionError.
    """
    if not record.info.get(HAS_SERVED):
        record.info[HAS_SERVED] = True
        return
    poller = polling.poll()
    if not connection.closed:
        poller.register(connection.fileno(), polling.POLLIN)
    if connection.closed or poller.poll(0):
        raise DisconnectionError("PostgreSQL has closed this connection")


def open_transaction(session: Session, _: object, connection: Connection) -> None:
    """Let psycopg2 send BEGIN inside a `transaction()` only: a read outside of one takes a single round trip.

    Setting psycopg2's `autocommit` sends nothing to the server; SQLAlchemy's isolation levels would.
    """
    driver = cast(Any, connection.connection.driver_connection)
    if session.info.get(IN_TRANSACTION) and driver.autocommit:
        driver.autocommit = False


def close_transaction(connection: Any, _record: object) -> None:
    """Put a connection back into autocommit before it returns to the pool. It is None if it was discarded."""
    if connection is not None and not connection.closed:
        connection.autocommit = True


def translate_unavailable(context: ExceptionContext) -> BaseException | None:
    """Turn errors of an unavailable server into DatabaseUnavailable.

    psycopg2 has one class for these and for statements that a running server has ended.
    """
    error = context.sqlalchemy_exception
    if not isinstance(error, DBAPIError) or error.orig is None:
        return None
    state = getattr(error.orig, "pgcode", None)  # errors that libpq itself detects have none
    is_connecting = context.connection is None and isinstance(error, OperationalError)
    is_unavailable = (
        state.startswith("08") or state in UNAVAILABLE_STATES if state else context.is_disconnect or is_connecting
    )
    if not is_unavailable:
        return None
    if state == READ_ONLY:
        context.is_disconnect = True  # the pool forgets its connections: new ones may lead to another server
    return DatabaseUnavailable(
        error.statement,
        error.params,
        error.orig,
        hide_parameters=error.hide_parameters,
        connection_invalidated=context.is_disconnect,
    )


def log_database_error(log: logging.Logger, consequence: str, error: Exception) -> None:
    """Log one of TRANSIENT_DATABASE_ERRORS: an unavailable server in one line, anything else with its traceback."""
    if isinstance(error, DATABASE_UNAVAILABLE):
        log.warning("PostgreSQL is unavailable (%s): %s", first_line(error), consequence)
    else:
        log.error("PostgreSQL aborted a statement: %s", consequence, exc_info=error)


def locked_keys(rows: Select[Any]) -> Select[Any]:
    """Lock rows that nobody else has locked, and select their keys, for the `IN` of an UPDATE or a DELETE.

    The common table expression makes PostgreSQL run the query once. Without it PostgreSQL may run it for each row of
    the table, and lock other rows each time, so that LIMIT bounds nothing.
    """
    return select(rows.with_for_update(skip_locked=True).cte())


def text_enum(kind: type[enum.StrEnum], name: str) -> Enum:
    """Return a column type that stores an enum's values as text, guarded by a check constraint."""
    return Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )
