"""Migrations on real data: from empty, from the revision before with rows in it, and back again."""

import re
from itertools import pairwise

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.core.db import db
from tests.migrations.conftest import FOLDER, REVISIONS, script
from tests.migrations.rows import insert_rows, read_rows, rules_of, schema_of, tables_of

WEAKER = {  # than the rules that they replaced
    ("messages", "ix_messages_reply_of_prompt"),
    ("idempotency_keys", "ck_idempotency_keys_made_one_thing"),
}
OF_ROWS_ALONE = {"0021"}
LATER_STEPS = list(pairwise(REVISIONS))  # those that run beside rows and code


def steps_with(words: str) -> list[tuple[str, str]]:
    texts = {after: next(FOLDER.glob(f"versions/{after}_*.py")).read_text() for _, after in LATER_STEPS}
    return [(before, after) for before, after in LATER_STEPS if words in texts[after]]


CONCURRENT_STEPS, VALIDATING_STEPS = steps_with("postgresql_concurrently"), steps_with("VALIDATE CONSTRAINT")


def test_there_is_one_head():
    assert len(script().get_heads()) == 1


def test_migrations_lead_from_nothing_to_the_models_and_back(migrator):
    migrator.start_from_nothing()
    migrator.to("head")
    with migrator.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, db.metadata) == []
    migrator.to("head")  # a second time does nothing
    migrator.back_to("base")
    assert not migrator.tables()


@pytest.mark.parametrize(("before", "after"), LATER_STEPS)
def test_a_step_keeps_the_content_of_the_rows_and_can_be_reverted(migrator, before, after):
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
def test_the_code_of_before_a_step_works_on_the_schema_after_it(migrator, before, after):
    """During a release the old code still writes, reads, changes and deletes by the columns that it knows."""
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


def test_an_index_of_a_table_with_rows_is_made_concurrently(migrator):
    """Autogeneration writes a plain CREATE INDEX, which keeps everybody from writing until the index is complete."""
    statements = []
    with migrator.app.app_context():
        engine = db.engine
    note = lambda _connection, _cursor, statement, *_: statements.append(statement)  # noqa: E731
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        migrator.start_at(REVISIONS[0])
        for _, after in LATER_STEPS:
            statements.clear()
            migrator.to(after)
            text = "\n".join(statements)
            made = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", text))
            plain = re.findall(r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)(?:IF NOT EXISTS )?(\w+) ON (\w+)", text)
            blocking = [name for name, table in plain if table not in made]
            assert not blocking, (
                f"{after} locks a table that is in use: give {blocking} postgresql_concurrently=True, within "
                "op.get_context().autocommit_block(), and drop what an earlier attempt left, as 0012 does"
            )
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def test_all_steps_can_be_reverted_when_the_tables_have_rows(migrator):
    migrator.start_at(REVISIONS[-1])
    with migrator.engine.begin() as connection:
        insert_rows(connection, tables_of(connection))
    migrator.back_to("base")
    assert not migrator.tables()


@pytest.mark.parametrize(("before", "after"), VALIDATING_STEPS)
def test_a_migration_whose_validation_was_interrupted_can_be_run_again(migrator, before, after):
    """What ran before the validation is committed. A vacuum is enough to keep the validation from its lock."""
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
def test_a_migration_that_was_interrupted_can_be_run_again(migrator, before, after):
    """An index that is made concurrently waits for every open transaction, so a backup is enough."""
    migrator.start_at(before)
    with migrator.engine.connect().execution_options(isolation_level="REPEATABLE READ") as backup, backup.begin():
        backup.execute(sa.text("SELECT count(*) FROM messages"))
        with pytest.raises(sa.exc.OperationalError):
            migrator.to(after)
    migrator.to(after)
    with migrator.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")) == 0
    migrator.to("head")


def test_rows_that_wait_to_be_purged_do_not_prevent_reverting_0007(migrator):
    """The earlier schema cannot mark a chatroom or an account as deleted, so such rows are deleted for good."""
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


def test_older_messages_can_be_found(migrator):
    """There are more of them than a batch. Those without a text, superseded or waiting to be purged are left out."""
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


def test_older_rows_get_the_values_that_they_lack(migrator):
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
