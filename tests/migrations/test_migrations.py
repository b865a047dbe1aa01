"""Migrations on real data: from empty, from the revision before with rows in it, and back again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import downgrade, upgrade

from app.core.database import db
from tests.deployment.files import ROOT
from tests.migrations.rows import count_rows, insert_rows

FOLDER = ROOT / "migrations"
DATABASE = "migrations_under_test"


def script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return ScriptDirectory.from_config(config)


REVISIONS = [revision.revision for revision in reversed(list(script().walk_revisions()))]
STEPS = list(zip(["base", *REVISIONS], REVISIONS, strict=False))


@dataclass
class Migrator:
    """An empty database and the ways to move it."""

    app: Flask
    engine: sa.Engine

    def to(self, revision: str) -> None:
        with self.app.app_context():
            upgrade(directory=str(FOLDER), revision=revision)

    def back_to(self, revision: str) -> None:
        with self.app.app_context():
            downgrade(directory=str(FOLDER), revision=revision)

    def tables(self) -> set[str]:
        return set(sa.inspect(self.engine).get_table_names()) - {"alembic_version"}


@contextmanager
def maintenance(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def migrator(postgres, make_app: Callable[..., Flask]) -> Iterator[Migrator]:
    url = sa.make_url(postgres.url).set(drivername="postgresql+psycopg2")
    with maintenance(url) as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {DATABASE}"))
    own = url.set(database=DATABASE).render_as_string(hide_password=False)
    engine = sa.create_engine(own, poolclass=sa.NullPool)
    app = make_app(database_url=own)
    yield Migrator(app, engine)
    with app.app_context():
        db.engine.dispose()
    with maintenance(url) as connection:
        connection.execute(sa.text(f"DROP DATABASE {DATABASE} WITH (FORCE)"))


def test_there_is_one_head():
    assert len(script().get_heads()) == 1


def test_from_empty_to_what_the_models_say_and_back(migrator):
    migrator.to("head")
    with migrator.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, db.metadata) == []
    migrator.to("head")  # a second time does nothing
    migrator.back_to("base")
    assert not migrator.tables()


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_a_step_keeps_the_rows_and_can_be_taken_back(migrator, before, after):
    if before != "base":
        migrator.to(before)
    with migrator.engine.begin() as connection:
        inserted = insert_rows(connection)
    assert bool(inserted) is (before != "base")
    migrator.to(after)
    with migrator.engine.begin() as connection:
        assert count_rows(connection, inserted) == inserted
    migrator.back_to(before)
    with migrator.engine.begin() as connection:
        assert count_rows(connection, inserted) == inserted


def test_full_tables_can_be_taken_back_to_nothing(migrator):
    migrator.to("head")
    with migrator.engine.begin() as connection:
        assert insert_rows(connection)
    migrator.back_to("base")
    assert not migrator.tables()


@pytest.mark.parametrize(("before", "after"), [("0003", "0004"), ("0004", "0005")])
def test_a_migration_that_was_cut_short_can_be_run_again(migrator, before, after):
    """An index that is made concurrently waits for every transaction that is open: a backup is enough."""
    migrator.to(before)
    with migrator.engine.connect().execution_options(isolation_level="REPEATABLE READ") as backup, backup.begin():
        backup.execute(sa.text("SELECT count(*) FROM messages"))
        with pytest.raises(sa.exc.OperationalError):
            migrator.to(after)
    migrator.to(after)
    migrator.to("head")


def test_a_migration_does_not_wait_long_for_a_lock(migrator):
    """A migration that waits stops everybody who comes behind it: it gives up instead."""
    migrator.to(REVISIONS[0])
    with migrator.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            migrator.to("head")
    migrator.to("head")


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_migration_says_how_to_take_it_back(revision):
    text = next(FOLDER.glob(f"versions/{revision}_*.py")).read_text()
    body = text.split("def downgrade() -> None:")[1]
    assert "op." in body
