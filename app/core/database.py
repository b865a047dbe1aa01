"""The database: engine settings, the base of every model, and what they have in common."""

import enum
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, Enum, MetaData, Table
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase, registry

from app.core.database_waits import STATEMENT_TIMEOUT_MS, BoundedConnection, bound_waits

POOL_TIMEOUT_SECONDS = 2.6  # a burst passes; with a new connection behind it, still within 5 seconds
LOCK_TIMEOUT_MS = 2_000
IDLE_IN_TRANSACTION_MS = 15_000


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


# What SQLAlchemy raises when PostgreSQL is not to be had, or no connection to it in time.
DATABASE_UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError)

db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})

if TYPE_CHECKING:  # mypy does not understand what Flask-SQLAlchemy makes of Base

    class Model(Base):
        """What every table is declared on."""

        __abstract__ = True
        __table__: ClassVar[Table]
else:
    Model = db.Model


def text_enum(kind: type[enum.StrEnum], name: str) -> Enum:
    """A column type that stores an enum's values as text, guarded by a check constraint."""
    return Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )


def engine_options(pool_size: int) -> dict[str, Any]:
    """Options that bound every wait on PostgreSQL: an answer or an error within 5 seconds.

    pool_size: connections of one process; a thread that finds none free waits POOL_TIMEOUT_SECONDS.
    """
    bound_waits()
    server_limits = {
        "statement_timeout": STATEMENT_TIMEOUT_MS,
        "lock_timeout": LOCK_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS,
        "timezone": "UTC",
    }
    return {
        "hide_parameters": True,  # an error of SQLAlchemy's would tell what was to be stored
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_SECONDS,
        "pool_pre_ping": True,
        "pool_recycle": 1_800,
        "connect_args": {
            "connection_factory": BoundedConnection,
            "application_name": "gemini-backend",
            "tcp_user_timeout": 3_000,
            "keepalives_idle": 30,
            "options": " ".join(f"-c {name}={value}" for name, value in server_limits.items()),
        },
    }
