"""Migrations on real data: from empty, from the revision before with rows in it, and back again."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import downgrade, upgrade

from app.core.db import db
from tests.migrations.rows import insert_rows, read_rows, rules_of, schema_of, tables_of
from tests.servers import Database
from tests.web_process import ROOT

FOLDER = ROOT / "migrations"


def script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return ScriptDirectory.from_config(config)


WEAKER = {  # than the rules that they took the place of
    ("messages", "ix_messages_reply_of_prompt"),
    ("idempotency_keys", "ck_idempotency_keys_made_one_thing"),
}
OF_ROWS_ALONE = {"0021"}
REVISIONS = [revision.revision for revision in reversed(list(script().walk_revisions()))]
LATER_STEPS = list(pairwise(REVISIONS))  # those that meet rows, and code that runs


def steps_with(words: str) -> list[tuple[str, str]]:
    texts = {after: next(FOLDER.glob(f"versions/{after}_*.py")).read_text() for _, after in LATER_STEPS}
    return [(before, after) for before, after in LATER_STEPS if words in texts[after]]


CONCURRENT_STEPS, VALIDATING_STEPS = steps_with("postgresql_concurrently"), steps_with("VALIDATE CONSTRAINT")


@dataclass
class Migrator:
    """A database without rows and the ways to move it."""

    app: Flask
    engine: sa.Engine

    def start_at(self, revision: str) -> None:
        """Go on without rows from where the test before ended, or from nothing when that is further."""
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

    def to(self, revision: str) -> None:
        with self.app.app_context():
            upgrade(directory=str(FOLDER), revision=revision, x_arg=["lock_timeout=300ms"])

    def back_to(self, revision: str) -> None:
        with self.app.app_context():
            downgrade(directory=str(FOLDER), revision=revision)

    @contextmanager
    def recorded(self) -> Iterator[list[str]]:
        """All that is sent meanwhile, with the ends of transactions."""
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


def test_there_is_one_head():
    assert len(script().get_heads()) == 1


def test_from_empty_to_what_the_models_say_and_back(migrator):
    migrator.start_from_nothing()
    migrator.to("head")
    with migrator.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, db.metadata) == []
    migrator.to("head")  # a second time does nothing
    migrator.back_to("base")
    assert not migrator.tables()


@pytest.mark.parametrize(("before", "after"), LATER_STEPS)
def test_a_step_keeps_what_the_rows_say_and_can_be_taken_back(migrator, before, after):
    migrator.start_at(before)
    with migrator.engine.begin() as connection:
        known, schema = tables_of(connection), schema_of(connection)
        insert_rows(connection, known)
        stored = read_rows(connection, known)
        assert all(stored.values())
    migrator.to(after)
    with migrator.engine.begin() as connection:
        assert (schema_of(connection) == schema) is (after in OF_ROWS_ALONE)
        assert read_rows(connection, known) == stored
    migrator.back_to(before)
    with migrator.engine.begin() as connection:
        assert schema_of(connection) == schema
        assert read_rows(connection, known) == stored


@pytest.mark.parametrize(("before", "after"), LATER_STEPS)
def test_the_code_of_before_works_on_the_schema_of_after(migrator, before, after):
    """During a release both run: the old one writes, reads, changes and deletes by the columns that it knows."""
    migrator.start_at(before)
    with migrator.engine.begin() as connection:
        known = tables_of(connection)
        rules = rules_of(connection, known)
    migrator.to(after)
    with migrator.engine.begin() as connection:
        assert rules_of(connection, known) - WEAKER <= rules, "the old code does not know of the new rule"
        insert_rows(connection, known)
        assert all(read_rows(connection, known).values())
        for table in reversed(known.sorted_tables):
            connection.execute(table.update().values({column: column for column in table.columns}))
            connection.execute(table.delete())


def test_full_tables_can_be_taken_back_to_nothing(migrator):
    migrator.start_at(REVISIONS[-1])
    with migrator.engine.begin() as connection:
        insert_rows(connection, tables_of(connection))
    migrator.back_to("base")
    assert not migrator.tables()


@pytest.mark.parametrize(("before", "after"), VALIDATING_STEPS)
def test_a_migration_whose_validation_was_cut_short_can_be_run_again(migrator, before, after):
    """What was written before it is committed; a vacuum is enough to keep it from its lock."""
    migrator.start_at(before)

    def fail(_connection, _cursor, statement, *_):
        if "VALIDATE CONSTRAINT" in statement:
            raise InterruptedError

    with migrator.app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(InterruptedError):
            migrator.to(after)
    finally:
        sa.event.remove(engine, "before_cursor_execute", fail)
    migrator.to("head")


@pytest.mark.parametrize(("before", "after"), CONCURRENT_STEPS)
def test_a_migration_that_was_cut_short_can_be_run_again(migrator, before, after):
    """An index that is made concurrently waits for every transaction that is open: a backup is enough."""
    migrator.start_at(before)
    with migrator.engine.connect().execution_options(isolation_level="REPEATABLE READ") as backup, backup.begin():
        backup.execute(sa.text("SELECT count(*) FROM messages"))
        with pytest.raises(sa.exc.OperationalError):
            migrator.to(after)
    migrator.to(after)
    with migrator.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")) == 0
    migrator.to("head")


def test_what_waits_to_be_purged_is_no_obstacle_to_taking_0007_back(migrator):
    """The earlier schema cannot say that a chatroom or an account is deleted: what is goes for good."""
    migrator.start_at("0007")
    with migrator.engine.begin() as connection:
        insert_rows(connection, tables_of(connection))
        connection.execute(sa.text("UPDATE chatrooms SET user_id = NULL"))
        connection.execute(sa.text("UPDATE users SET mobile = NULL"))
    migrator.back_to("0006")
    with migrator.engine.begin() as connection:
        left = read_rows(connection, tables_of(connection))
    assert not left["chatrooms"] | left["messages"] | left["users"] | left["auth_sessions"]
    assert left["prompt_charges"]


def test_a_migration_does_not_wait_long_for_a_lock(migrator):
    """A migration that waits stops everybody who comes behind it: it gives up instead."""
    migrator.start_at(REVISIONS[0])
    with migrator.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            migrator.to("head")
    migrator.to("head")


def test_a_migration_waits_five_seconds_for_a_lock_unless_told_otherwise(migrator):
    limits = []

    def note(_connection, _cursor, statement, parameters, *_):
        limits.extend(parameters.values() if "'lock_timeout'" in statement else ())

    with migrator.app.app_context():
        engine = db.engine
        sa.event.listen(engine, "before_cursor_execute", note)
        upgrade(directory=str(FOLDER))
        sa.event.remove(engine, "before_cursor_execute", note)
    assert limits == ["5s"]


def test_no_step_locks_a_table_in_use_while_it_reads_the_rows(migrator):
    """Rules 3 and 4 of docs/operations.md. With the tables that it makes, a step may do as it likes."""
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


def test_messages_of_before_can_be_found(migrator):
    """More than a batch of them; neither those without a text, nor what is superseded or waits to be purged."""
    migrator.start_at("0013")
    with migrator.engine.begin() as connection:
        insert_rows(connection, tables_of(connection))
        connection.execute(
            sa.text(
                """INSERT INTO messages (id, chatroom_id, position, role, text, status, superseded, created_at,
                    streamed, attempt, failures)
                SELECT gen_random_uuid(), chatroom_id, n, 'user', 'Text ' || n, 'completed', n % 10 = 0, created_at,
                    false, 0, 0
                FROM messages, generate_series(2, 2500) n WHERE position = 0"""
            )
        )
    migrator.to("head")
    with migrator.engine.connect() as connection:
        counts = connection.execute(
            sa.text(
                """SELECT count(*), count(message_id), count(*) FILTER (WHERE superseded OR text IS NULL)
                FROM messages LEFT JOIN searchable_messages ON message_id = id"""
            )
        ).one()
    total, searchable, hidden = counts
    assert (total, searchable, hidden) == (2501, 2501 - hidden, 250)


def test_rows_of_before_get_what_they_lack(migrator):
    migrator.start_at("0020")
    with migrator.engine.begin() as connection:
        insert_rows(connection, tables_of(connection))
        for older in (
            """UPDATE messages SET prompt_tokens = 12, output_tokens = 48, thinking_tokens = NULL, cached_tokens = NULL,
                total_tokens = NULL""",
            "UPDATE chatrooms SET title_source = NULL",
            """UPDATE prompt_charges SET user_id = NULL, carried_from = NULL,
                reply_id = (SELECT id FROM messages WHERE role = 'model')""",
        ):
            connection.execute(sa.text(older))
        connection.execute(
            sa.text(
                """INSERT INTO prompt_charges (id, mobile_key, day, created_at, carried_from)
                SELECT gen_random_uuid(), 'another', day, created_at, id FROM prompt_charges LIMIT 1"""
            )
        )
    migrator.to("0021")
    with migrator.engine.connect() as connection:
        tokens = connection.execute(sa.text("SELECT thinking_tokens, cached_tokens, total_tokens FROM messages")).all()
        assert {tuple(row) for row in tokens} == {(0, 0, 60)}
        assert connection.scalar(sa.text("SELECT title_source FROM chatrooms")) == "user"
        owned = "SELECT count(*) FROM prompt_charges JOIN chatrooms USING (user_id)"
        original = "SELECT count(*) FROM prompt_charges WHERE carried_from IS NULL"
        assert connection.scalar(sa.text(owned)) == connection.scalar(sa.text(original)) > 0
