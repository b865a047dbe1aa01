"""Runs migrations on the application's own database, never waiting long for a lock."""

from alembic import context
from flask import current_app
from sqlalchemy import text

from app.core.db import answers_within

# A migration that cannot have its lock gives up rather than stop the service behind it in the queue.
LOCK_TIMEOUT = "5s"  # or what `flask db upgrade -x lock_timeout=…` says
STATEMENT_TIMEOUT = "15min"
STATEMENT_SECONDS = 16 * 60

migrate = current_app.extensions["migrate"]


def run_online() -> None:
    with answers_within(STATEMENT_SECONDS), migrate.db.engine.connect() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        lock_timeout = context.get_x_argument(as_dictionary=True).get("lock_timeout", LOCK_TIMEOUT)
        connection.execute(text("SELECT set_config('lock_timeout', :seconds, false)"), {"seconds": lock_timeout})
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=migrate.db.metadata, **migrate.configure_args)
        with context.begin_transaction():
            context.run_migrations()


def run_offline() -> None:
    url = migrate.db.engine.url.render_as_string(hide_password=False)
    context.configure(url=url, target_metadata=migrate.db.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
