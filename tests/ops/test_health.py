"""The two health checks, and the clock they go by. What they say when a server is gone is in
tests/core/test_dependencies_gone.py.
"""

from contextlib import closing
from datetime import timedelta

import psycopg2
import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from app.core.celery import WORKERS
from app.core.clock import database_now, utc_now
from app.core.db import db
from app.core.redis import redis_client
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


@pytest.fixture
def misled_app(make_app, postgres, valkey):
    """An application whose addresses name a database that is not there, and a wrong password of Redis."""
    database_url = make_url(postgres.url).set(database="missing").render_as_string(hide_password=False)
    return make_app(database_url=database_url, redis_url=valkey.url.replace("redis://:", "redis://:wrong-"))


def test_the_log_says_why_readyz_is_503(misled_app, caplog):
    assert misled_app.test_client().get("/readyz").status_code == 503
    postgres_says, redis_says = [record.message for record in caplog.records if record.name == "app.ops.health"]
    assert postgres_says.startswith("PostgreSQL does not answer: ")
    assert 'database "missing" does not exist' in postgres_says
    assert redis_says.startswith("Redis does not answer: AuthenticationError: ")
    assert "wrong-" not in redis_says


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


@pytest.fixture
def empty_database(postgres):
    """The address of a database without tables."""
    url = make_url(postgres.url)
    empty = url.set(database=f"{url.database}_empty")
    with closing(psycopg2.connect(postgres.url)) as admin:
        admin.autocommit = True
        admin.cursor().execute(f'CREATE DATABASE "{empty.database}"')
        yield empty.render_as_string(hide_password=False)
        admin.cursor().execute(f'DROP DATABASE "{empty.database}" WITH (FORCE)')


def test_health_says_in_one_line_that_the_tables_are_missing(make_app, empty_database):
    done = make_app(database_url=empty_database, commands=True).test_cli_runner().invoke(args=["health"])
    assert done.exit_code == 1, done.output
    [line] = [line for line in done.output.splitlines() if line.startswith("postgres")]
    assert 'relation "messages" does not exist' in line
    assert "SELECT" not in done.output


def test_a_worker_whose_clock_is_ahead_took_its_last_task_now(app):
    with app.app_context():
        redis_client().zadd(WORKERS, {"ahead:1": (utc_now() + timedelta(seconds=30)).timestamp()})
    output = app.test_cli_runner().invoke(args=["health"]).output
    with app.app_context():
        redis_client().zrem(WORKERS, "ahead:1")
    [line] = [line for line in output.splitlines() if "ahead:1" in line]
    assert line.endswith("last took a task 0 s ago")
