"""A sweep deletes ended rows in batches, one batch of each kind in turn."""

from contextlib import closing
from itertools import count
from types import SimpleNamespace

import psycopg2
import pytest
from sqlalchemy import delete, select

from app.account.tasks import delete_in_batches
from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from app.ops.totals import Heartbeat, Total


@pytest.fixture
def context(app):
    with app.app_context():
        yield


def test_a_sweep_serves_all_kinds_of_rows_in_turn_within_one_time_budget(context, monkeypatch):
    names = [f"{number} of a backlog" for number in range(9)]
    with transaction():
        db.session.add_all(Heartbeat(name=name, at=utc_now()) for name in names)
        db.session.add_all(Total(name=name, label="", value=1) for name in names)
        db.session.add(Total(name="alone", label="of its kind", value=1))
    of = [(Heartbeat, Heartbeat.name.in_(names)), (Total, Total.name.in_(names)), (Total, Total.name == "alone")]
    batches = {
        number: delete(kind)
        .where(kind.name == select(kind.name).where(which).limit(1).scalar_subquery())
        .returning(kind.name)
        for number, (kind, which) in enumerate(of)
    }
    seconds = count()
    monkeypatch.setattr("app.account.tasks.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    assert [*delete_in_batches(batches).values()] == [3, 3, 1]
    assert next(seconds) == 4, "two seconds from the first look, and the look that ended it"
    assert [*delete_in_batches(batches).values()] == [3, 3, 0]


def test_a_kind_of_row_that_cannot_be_deleted_does_not_block_the_others(context, postgres):
    with transaction():
        db.session.add_all([Heartbeat(name="locked", at=utc_now()), Total(name="free", label="", value=1)])
    locked, free = delete(Heartbeat).where(Heartbeat.name == "locked"), delete(Total).where(Total.name == "free")
    batches = {"locked": locked.returning(Heartbeat.name), "free": free.returning(Total.name)}
    with closing(psycopg2.connect(postgres.url)) as other, other.cursor() as cursor:
        cursor.execute("LOCK heartbeats")
        assert delete_in_batches(batches) == {"locked": 0, "free": 1}
    assert delete_in_batches(batches) == {"locked": 1, "free": 0}
