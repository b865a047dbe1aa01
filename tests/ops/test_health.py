"""The two health checks, and the clock they go by. What they say when a server is gone is in
tests/core/test_dependencies_gone.py.
"""

from datetime import timedelta

import pytest
from sqlalchemy import event

from app.core.clock import database_now, utc_now
from app.core.db import db
from app.ops import totals
from tests.ops.test_metrics import scrape


def test_healthz_asks_no_database(app, client):
    asked = []
    with app.app_context():
        engine = db.engine
    event.listen(engine, "checkout", lambda *_: asked.append(1))
    assert client.get("/healthz").json == {"status": "ok"}
    assert not asked
    client.get("/readyz")
    assert asked


def test_readyz_is_ok_while_everything_answers(client):
    response = client.get("/readyz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("minutes", [-6, 6])
def test_ages_are_measured_by_one_clock(client, app, user, monkeypatch, minutes):
    """The clock is PostgreSQL's, by which a tick is dated."""
    user.post(f"{user.make_chatroom()}/message", json={"text": "Hello"})
    with app.app_context():
        totals.tick(database_now())
    wrong = utc_now() + timedelta(minutes=minutes)
    monkeypatch.setattr("app.ops.metrics.utc_now", lambda: wrong, raising=False)
    monkeypatch.setattr("app.ops.cli.utc_now", lambda: wrong)
    found = scrape(client)
    assert 0 < found["beat_last_tick_seconds",] < 60
    assert 0 < found["oldest_unfinished_reply_seconds",] < 60
    checks = app.test_cli_runner().invoke(args=["health"]).output.splitlines()
    assert [line.split()[0] for line in checks if "FAILED" in line] == []
