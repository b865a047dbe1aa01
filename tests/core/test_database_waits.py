"""How long the service waits for PostgreSQL; what happens when it is gone is in test_dependencies_gone.py."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import OperationalError

from app.core.db import POOL_TIMEOUT_SECONDS, STATEMENT_TIMEOUT_MS, answers_within, connect_to_first, db
from app.core.transactions import transaction
from tests.problems import assert_problem


def test_statement_that_takes_too_long_is_given_up_and_the_next_one_works(app):
    with app.app_context():
        began = time.monotonic()
        with answers_within(0.2), pytest.raises(OperationalError), db.engine.connect() as connection:
            connection.execute(text("SELECT pg_sleep(10)"))
        assert time.monotonic() - began < STATEMENT_TIMEOUT_MS / 1_000 - 0.5, "the server would have ended it later"
        assert db.session.scalar(text("SELECT 1")) == 1


def test_server_ends_a_long_statement_before_we_hang_up(app):
    """The server's error says more than a time-out of ours, and the connection survives."""
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(text("SET statement_timeout = 100"))
        with pytest.raises(OperationalError, match="statement timeout"):
            connection.execute(text("SELECT pg_sleep(3)"))
        assert connection.scalar(text("SELECT 1")) == 1
        connection.invalidate()  # so that its setting goes with it


def test_text_is_sent_in_utf_8_whatever_the_database_url_says(make_app, postgres):
    address = make_url(postgres.url).update_query_dict({"client_encoding": "latin1"})
    with make_app(database_url=address.render_as_string(hide_password=False)).app_context():
        assert db.session.scalar(text("SELECT :name"), {"name": "Zoë 😀"}) == "Zoë 😀"
        db.engine.dispose()


def test_options_in_the_database_url_apply_beside_our_own(make_app, postgres):
    address = make_url(postgres.url).update_query_dict({"options": "-c search_path=tenant"})
    with make_app(database_url=address.render_as_string(hide_password=False)).app_context():
        shown = [db.session.scalar(text(f"SHOW {name}")) for name in ("search_path", "statement_timeout", "timezone")]
        db.engine.dispose()
    assert shown == ["tenant", "4s", "UTC"]


def test_a_silent_host_is_passed_over_for_the_next_one_in_the_database_url(make_app, postgres):
    address = make_url(postgres.url)
    query = address.normalized_query
    host, port = (query.get(name, (own,))[0] for name, own in (("host", address.host), ("port", address.port)))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        hosts = {"host": f"127.0.0.1,{host}", "port": f"{silent.getsockname()[1]},{port}"}
        both = address.set(host=None, port=None).update_query_dict(hosts)
        with make_app(database_url=both.render_as_string(hide_password=False)).app_context():
            assert db.session.scalar(text("SELECT 1")) == 1
            db.engine.dispose()


def test_a_port_that_several_hosts_leave_open_is_libpqs(monkeypatch):
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(psycopg2.OperationalError, match=r"/none/\.s\.PGSQL\.1\b"):
        connect_to_first(None, None, None, {"host": "/nowhere,/none", "user": "app"})


def test_transactions_are_read_committed_whatever_the_database_says(make_app, postgres):
    """Under another isolation level, prompts of one user that are sent at once would be 503."""
    name = make_url(postgres.url).database
    with closing(psycopg2.connect(postgres.url)) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        try:
            with make_app(database_url=postgres.url).app_context():
                with transaction():
                    assert db.session.scalar(text("SHOW transaction_isolation")) == "read committed"
                db.engine.dispose()
        finally:
            cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_isolation")


def test_migrations_may_take_longer_even_outside_of_a_transaction(app):
    """An index that is made concurrently is made outside of a transaction."""
    with app.app_context(), answers_within(10), db.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        assert autocommit.scalar(text("SELECT 1 FROM pg_sleep(1.1)")) == 1


def test_connections_outside_the_pool_are_not_bounded(app, postgres):
    connection = psycopg2.connect(postgres.url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_sleep(1.1)")
        assert cursor.fetchone() == (1,)
    connection.close()


def test_threads_wait_for_postgresql_in_parallel(app):
    def sleep(_):
        with app.app_context():
            return db.session.scalar(text("SELECT 1 FROM pg_sleep(0.6)"))

    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(sleep, range(8))) == [1] * 8
    assert time.monotonic() - began < 8 * 0.6, "one after the other they would take longer"


def test_request_that_finds_no_free_connection_is_503_after_two_seconds(make_app, user):
    app = make_app(database_pool_size=1)
    headers = {"Authorization": f"Bearer {user.access_token}"}
    with app.app_context(), db.engine.connect():
        assert db.engine.pool.timeout() == POOL_TIMEOUT_SECONDS == 2
        began = time.monotonic()
        assert_problem(app.test_client().get("/user/me", headers=headers), 503, "service_unavailable")
        assert 2 <= time.monotonic() - began < 4, "a burst passes, and nobody waits twice"
    assert app.test_client().get("/user/me", headers=headers).status_code == 200


@pytest.mark.parametrize("how", ["ended by the server", "closed here"])
def test_connection_lost_in_the_middle_of_a_request_is_503_and_the_next_request_works(app, user, postgres, how):
    lost = []

    def lose(connection, _cursor, statement, *_):
        if "chatrooms" not in statement or lost:
            return
        lost.append(statement)
        ours = connection.connection.dbapi_connection
        if how == "closed here":
            ours.close()
            return
        with psycopg2.connect(postgres.url) as admin, admin.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 2000)", (ours.info.backend_pid,))
        admin.close()

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", lose)
    try:
        assert_problem(user.post("/chatroom", json={"title": "Lost"}), 503, "service_unavailable")
    finally:
        event.remove(engine, "before_cursor_execute", lose)
    assert lost
    assert user.post("/chatroom", json={"title": "Kept"}).status_code == 201
    assert [room["title"] for room in user.get("/chatroom").json["items"]] == ["Kept"]
