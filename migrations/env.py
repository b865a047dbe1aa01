"""Runs migrations on the application's own database: one run at a time, never waiting long for a lock."""

import time

from alembic import context
from flask import current_app
from sqlalchemy import func, select, text

from app.core.db import answers_within

# A migration that cannot have its lock gives up rather than stop the service behind it in the queue.
LOCK_TIMEOUT = "5s"  # or what `flask db upgrade -x lock_timeout=…` says
STATEMENT_TIMEOUT = "15min"
STATEMENT_SECONDS = 16 * 60
ONE_AT_A_TIME = 4_736_111  # an advisory lock of PostgreSQL's; any number that nothing else takes

migrate = current_app.extensions["migrate"]


def run_online() -> None:
    with answers_within(STATEMENT_SECONDS), migrate.db.engine.connect() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        arguments = context.get_x_argument(as_dictionary=True)
        lock_timeout = arguments.get("lock_timeout", LOCK_TIMEOUT)
        connection.execute(text("SELECT set_config('lock_timeout', :seconds, false)"), {"seconds": lock_timeout})
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.execute(text("SET client_connection_check_interval = '1s'"))  # a run that is killed leaves no lock
        encoding = connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":  # search folds letters by Unicode, and others cannot store what users write
            raise SystemExit(f"The database's encoding is {encoding}. Make another one, with ENCODING 'UTF8'.")
        waits_until = time.monotonic() + float(arguments.get("wait", 0))  # seconds
        # Not `pg_advisory_lock`: an index that the other run builds CONCURRENTLY would wait for that statement's end.
        while not connection.scalar(select(func.pg_try_advisory_lock(ONE_AT_A_TIME))):
            if time.monotonic() >= waits_until:  # two runs would undo each other's steps
                raise SystemExit("Another `flask db` is at work on this database. Try again when it has ended.")
            time.sleep(1)
        connection.commit()
        options = migrate.configure_args | {"transaction_per_migration": True}  # no step holds its locks for the next
        context.configure(connection=connection, target_metadata=migrate.db.metadata, **options)
        try:
            with context.begin_transaction():
                context.run_migrations()
        finally:
            connection.invalidate()  # closed, and the lock with it


if context.is_offline_mode():
    raise SystemExit("`--sql` is not supported: some migrations look at the rows that are there.")
run_online()
