"""A database for the migrations alone, and ways to move it between revisions."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import downgrade, upgrade

from app.core.db import db
from tests.migrations.rows import tables_of
from tests.servers import Database
from tests.web_process import ROOT

FOLDER = ROOT / "migrations"
ONE_AT_A_TIME = int(re.findall(r"ONE_AT_A_TIME = ([0-9_]+)", (FOLDER / "env.py").read_text())[0])


def script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return ScriptDirectory.from_config(config)


REVISIONS = [revision.revision for revision in reversed(list(script().walk_revisions()))]


@dataclass
class Migrator:
    """An empty database, and ways to move it between revisions."""

    app: Flask
    engine: sa.Engine

    def start_at(self, revision: str) -> None:
        """Move to a revision without rows: from where the last test ended, or from nothing if that was past it."""
        with self.engine.begin() as connection:
            present = MigrationContext.configure(connection).get_current_revision()
            behind = present in REVISIONS[: REVISIONS.index(revision) + 1]
            for table in reversed(tables_of(connection).sorted_tables) if behind else ():
                connection.execute(table.delete())
        if not behind:
            self.start_from_nothing()
        self.to(revision)

    def start_from_nothing(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))

    def to(self, revision: str, *, lock_timeout: str = "300ms") -> None:
        self.wait_until_alone()
        self.upgrade(revision, lock_timeout=lock_timeout)

    def upgrade(self, revision: str, *, lock_timeout: str = "300ms", wait: str = "0") -> None:
        """As `to`, without waiting for the end of another run. wait: let the run itself wait, for so many seconds."""
        with self.app.app_context():
            upgrade(directory=str(FOLDER), revision=revision, x_arg=[f"lock_timeout={lock_timeout}", f"wait={wait}"])

    def back_to(self, revision: str) -> None:
        self.wait_until_alone()
        with self.app.app_context():
            downgrade(directory=str(FOLDER), revision=revision)

    def wait_until_alone(self) -> None:
        """Wait for the lock of the last run. The server releases it a moment after the run's connection ends."""
        with self.engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ONE_AT_A_TIME)))

    @contextmanager
    def recorded(self) -> Iterator[list[str]]:
        """Collect all that is sent within the block, with the ends of transactions."""
        with self.app.app_context():
            engine = db.engine
        sent: list[str] = []
        notes = {"before_cursor_execute": lambda *said: sent.append(said[2]), "commit": lambda _: sent.append("COMMIT")}
        for name, note in notes.items():
            sa.event.listen(engine, name, note)
        try:
            yield sent
        finally:
            for name, note in notes.items():
                sa.event.remove(engine, name, note)

    def tables(self) -> set[str]:
        return set(sa.inspect(self.engine).get_table_names()) - {"alembic_version"}


@pytest.fixture(scope="module")
def migrator(postgres: Database, make_app: Callable[..., Flask]) -> Iterator[Migrator]:
    server = sa.make_url(postgres.url).set(drivername="postgresql+psycopg2")
    url = server.set(database=f"{server.database}_migrations")
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {url.database} TEMPLATE template0"))
        app = make_app(database_url=url.render_as_string(hide_password=False))
        yield Migrator(app, sa.create_engine(url, poolclass=sa.NullPool))
        connection.execute(sa.text(f"DROP DATABASE {url.database} WITH (FORCE)"))  # it may be asked for again
