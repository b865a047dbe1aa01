"""Migrations beside other work: what they wait for and lock, what they refuse, and what changes while they run."""

import re
import threading
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from flask_migrate import upgrade

from app.core.db import db
from tests.migrations.conftest import FOLDER, ONE_AT_A_TIME, REVISIONS, Migrator
from tests.migrations.rows import insert_rows, tables_of


def test_a_migration_does_not_wait_long_for_a_lock(migrator):
    """A migration that waits stops everybody who comes behind it, so it gives up instead."""
    migrator.start_at(REVISIONS[0])
    with migrator.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            migrator.to("head")
    migrator.to("head")


def test_a_migration_waits_five_seconds_for_a_lock_unless_told_otherwise(migrator):
    limits = []
    migrator.wait_until_alone()

    def note(_connection, _cursor, statement, parameters, *_):
        limits.extend(parameters.values() if "'lock_timeout'" in statement else ())

    with migrator.app.app_context():
        engine = db.engine
        sa.event.listen(engine, "before_cursor_execute", note)
        upgrade(directory=str(FOLDER))
        sa.event.remove(engine, "before_cursor_execute", note)
    assert limits == ["5s"]


def test_a_second_run_at_the_same_time_is_refused(migrator):
    migrator.start_at(REVISIONS[0])
    with migrator.engine.connect() as other:
        assert other.scalar(sa.select(sa.func.pg_try_advisory_lock(ONE_AT_A_TIME)))
        with pytest.raises(SystemExit, match="Another `flask db` is at work"):
            migrator.upgrade("head")
    migrator.to("head")


def test_a_second_run_waits_for_the_first_if_told_to(migrator):
    """Also when the first builds an index CONCURRENTLY, which would wait for a statement of the second."""
    migrator.start_at(REVISIONS[0])
    tried, outcome = threading.Event(), []
    with migrator.app.app_context():
        engine = db.engine

    def note(_connection, _cursor, statement, *_):
        if "pg_try_advisory_lock" in statement:
            tried.set()

    def second_run():
        migrator.upgrade("head", wait="60")
        outcome.append("done")

    sa.event.listen(engine, "after_cursor_execute", note)
    thread = threading.Thread(target=second_run)
    try:
        with migrator.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as first:
            assert first.scalar(sa.select(sa.func.pg_try_advisory_lock(ONE_AT_A_TIME)))
            thread.start()
            assert tried.wait(20)
            first.execute(sa.text("CREATE INDEX CONCURRENTLY ix_of_the_first_run ON alembic_version (version_num)"))
            assert not outcome
            first.execute(sa.text("DROP INDEX ix_of_the_first_run"))
            first.execute(sa.select(sa.func.pg_advisory_unlock(ONE_AT_A_TIME)))
        thread.join(60)
    finally:
        sa.event.remove(engine, "after_cursor_execute", note)
    assert outcome == ["done"]


def test_a_database_that_cannot_store_every_text_is_refused(postgres, make_app):
    """Search needs Unicode. Otherwise a migration in the middle would fail, with a page of SQL."""
    server = sa.make_url(postgres.url).set(drivername="postgresql+psycopg2")
    url = server.set(database=f"{server.database}_latin")
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        latin = "ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
        connection.execute(sa.text(f"CREATE DATABASE {url.database} TEMPLATE template0 {latin}"))
        migrator = Migrator(make_app(database_url=url.render_as_string(hide_password=False)), sa.create_engine(url))
        with pytest.raises(SystemExit, match=r"encoding is LATIN1\. Make another one, with ENCODING 'UTF8'"):
            migrator.upgrade("head")
        assert not migrator.tables()
        migrator.engine.dispose()
        connection.execute(sa.text(f"DROP DATABASE {url.database} WITH (FORCE)"))


def test_locks_of_one_step_are_released_before_the_next(migrator):
    migrator.start_at(REVISIONS[0])
    with migrator.recorded() as sent:
        migrator.to("head")
    ends = [sent[number + 1] for number, one in enumerate(sent) if one.startswith("UPDATE alembic_version")]
    assert len(ends) == len(REVISIONS) - 1
    assert set(ends) == {"COMMIT"}


def test_a_script_of_statements_is_refused(migrator):
    with migrator.app.app_context(), pytest.raises(SystemExit, match="--sql"):
        upgrade(directory=str(FOLDER), sql=True)


def test_no_step_locks_a_table_in_use_while_it_reads_the_rows(migrator):
    """Rules 3 and 4 of docs/operations.md. A step may lock the tables that it makes as it likes."""
    migrator.start_at(REVISIONS[0])
    with migrator.recorded() as sent:
        migrator.to("head")
    own, waiting, validatable, breaches = set(), set(), set(), []
    for statement in sent:
        if made := re.search(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", statement):
            own.add(made[1])
        elif index := re.match(r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*? ON (\w+)", statement):
            breaches += [statement] if index[1] not in own else []
        elif rule := re.search(r"ALTER TABLE (\w+) (ADD|VALIDATE) CONSTRAINT (\w+)", statement):
            table, action, name = rule.groups()
            if action == "ADD" and statement.endswith("NOT VALID"):
                waiting.add(name)
            elif name in validatable:
                validatable.remove(name)
            elif table not in own:
                breaches.append(statement)
        elif statement == "COMMIT":
            validatable, waiting = validatable | waiting, set()
        elif statement.startswith("UPDATE alembic_version"):
            own.clear()
    assert (breaches, validatable) == ([], set())


@contextmanager
def before_statements(migrator, act):
    """Call `act` with each statement that is about to be sent."""
    with migrator.app.app_context():
        engine = db.engine

    def note(_connection, _cursor, statement, *_):
        act(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def test_messages_that_are_deleted_meanwhile_do_not_stop_a_step(migrator):
    """A purge has deleted one when the step reads it, and commits while the step waits for that row."""
    migrator.start_at("0013")
    with migrator.engine.begin() as connection:
        insert_rows(connection, tables_of(connection))
    with migrator.engine.connect() as purge:

        def delete(statement):
            if "search_words(user_id, text)" in statement and not purge.in_transaction():
                purge.execute(sa.text("DELETE FROM messages WHERE role = 'model'"))
                threading.Timer(0.1, purge.commit).start()

        with before_statements(migrator, delete):
            migrator.to("0014", lock_timeout="10s")
    with migrator.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM searchable_messages")) == 1


def test_locked_older_rows_are_waited_for_when_all_others_are_done(migrator):
    migrator.start_at("0020")
    with migrator.engine.begin() as connection:
        insert_rows(connection, tables_of(connection))
        connection.execute(sa.text("UPDATE chatrooms SET title_source = NULL"))
    with migrator.engine.connect() as holder:
        holder.execute(sa.text("SELECT 1 FROM chatrooms FOR UPDATE"))

        def let_go(statement):
            if "title_source" in statement and "SKIP LOCKED" not in statement:
                threading.Timer(0.1, holder.rollback).start()

        with before_statements(migrator, let_go):
            migrator.to("0021", lock_timeout="10s")
    with migrator.engine.connect() as connection:
        assert set(connection.scalars(sa.text("SELECT title_source FROM chatrooms"))) == {"user"}
