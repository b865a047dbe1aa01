"""What PostgreSQL does for the statements that run all the time, when its tables are large: looked at, not timed."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from flask import Flask

from app.core.db import db
from bench.large import Size, cases, explained, fill

SIZE = Size(messages=40_000, long_room=20_000, sessions=20_000, backlog=20_000, users=20_000)
LARGE = {"messages", "auth_sessions", "refresh_rotations", "chatrooms", "users", "prompt_charges"}
# Pages of 8 KB. A table of SIZE has some thousands; ten times as much data must not need more than this.
BUFFERS = {"sweeper, nothing lost": 12_000, "conversation": 2_500, "metrics: the queue": 3_000}
FEW = 300


@pytest.fixture(scope="module", params=[True, False], ids=["counted", "a backlog that is not counted yet"])
def large_app(migrated_app: Flask, request: pytest.FixtureRequest) -> Iterator[Flask]:
    """The application with some ten thousands of rows in its tables, which PostgreSQL has counted or will soon."""
    with migrated_app.app_context():
        empty = f"TRUNCATE {', '.join(table.name for table in db.metadata.sorted_tables)}"
        with db.engine.begin() as connection:
            connection.execute(sa.text(empty))
        fill(db.engine, SIZE, counted=request.param)
        yield migrated_app
        with db.engine.begin() as connection:
            connection.execute(sa.text(empty))


@pytest.mark.parametrize("case", cases())
def test_no_large_table_is_read_from_end_to_end(large_app, redis_db, case):
    run = cases()[case]
    with explained(db.engine) as plans:
        run()
    db.session.rollback()
    assert plans
    for plan in plans:
        assert not plan.scanned_whole & LARGE, plan.statement
    assert sum(plan.buffers for plan in plans) <= BUFFERS.get(case, FEW)
