"""Which errors mean that PostgreSQL is absent, and which are defects of ours that must not pass for that."""

import psycopg2
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from app.core.db import ANSWER_SECONDS, DATABASE_UNAVAILABLE, answers_within, db, seconds_allowed
from app.core.transactions import release_connection
from sandbox.stack.processes import free_port
from tests.people import all_at_once
from tests.problems import assert_problem

DEFECTS = {
    "57014": "a statement that takes too long",
    "40P01": "a deadlock",
    "55P03": "a lock that is not available",
    "25P03": "a transaction that was left open",
}
ABSENCES = {
    "08006": "a connection that is lost",
    "53100": "a full disk",
    "53300": "too many connections",
    "57P01": "a server that shuts down",
    "57P02": "a server that has crashed",
    "57P03": "a server that starts",
    "58030": "a disk that fails",
}


def fail_with(state: str) -> None:
    """Make PostgreSQL raise an error with this SQLSTATE."""
    db.session.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'Ada' USING ERRCODE = '{state}'; END $$"))


@pytest.fixture
def failing_app(make_app, app):
    """An application with a route and a task that meet an error of PostgreSQL's."""
    failing = make_app()
    failing.add_url_rule("/fail/<state>", view_func=lambda state: fail_with(state) or "")
    failing.task = failing.extensions["celery"].task(name="tests.fail")(fail_with)
    return failing


@pytest.mark.parametrize("state", ABSENCES, ids=ABSENCES.values())
def test_an_absence_of_postgresql_is_classified_as_one(app, state):
    with app.app_context(), pytest.raises(DATABASE_UNAVAILABLE):
        fail_with(state)


@pytest.mark.parametrize("state", DEFECTS, ids=DEFECTS.values())
def test_a_defect_is_not_classified_as_an_absence(app, state):
    with app.app_context(), pytest.raises(Exception, match="Ada") as raised:
        fail_with(state)
    assert not isinstance(raised.value, DATABASE_UNAVAILABLE)


@pytest.mark.parametrize("state", ["40P01", "55P03"])
def test_tests_repeat_a_request_that_waited_too_long_and_fail_at_a_deadlock(failing_app, state):
    states = [state, "nothing"]

    def call():
        return failing_app.test_client().get(f"/fail/{states.pop(0)}" if states[0] == state else "/healthz")

    if state == "40P01":
        with pytest.raises(AssertionError, match="DeadlockDetected"):
            all_at_once([call])
    else:
        assert [answer.status_code for answer in all_at_once([call])] == [200]


def test_a_server_that_is_not_there_is_absent(make_app, app):
    elsewhere = make_app(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with elsewhere.app_context(), pytest.raises(DATABASE_UNAVAILABLE):
        db.session.scalar(text("SELECT 1"))


def test_a_server_that_does_not_answer_in_time_is_absent(app):
    with app.app_context(), answers_within(0.2), pytest.raises(DATABASE_UNAVAILABLE):
        db.session.scalar(text("SELECT pg_sleep(10)"))


def test_another_time_is_allowed_within_the_block_only(app):
    with app.app_context():
        connection = db.session.connection().connection.driver_connection
        with answers_within(60):
            assert seconds_allowed(connection) == 60
        assert seconds_allowed(connection) == ANSWER_SECONDS


def test_an_absence_does_not_show_the_values_of_its_statement(app):
    with app.app_context(), answers_within(0.2), pytest.raises(DATABASE_UNAVAILABLE) as raised:
        db.session.execute(text("SELECT pg_sleep(10), CAST(:name AS text)"), {"name": "Ada"})
    assert "pg_sleep" in str(raised.value)
    assert "Ada" not in str(raised.value)


def test_a_connection_that_is_ended_is_an_absence(app, postgres):
    with app.app_context(), psycopg2.connect(postgres.url) as admin, admin.cursor() as cursor:
        pid = db.session.scalar(text("SELECT pg_backend_pid()"))
        cursor.execute("SELECT pg_terminate_backend(%s, 2000)", (pid,))
        with pytest.raises(DATABASE_UNAVAILABLE):
            db.session.scalar(text("SELECT 1"))
    admin.close()


def test_a_connection_that_was_ended_while_nobody_used_it_is_replaced(app, postgres):
    with app.app_context(), psycopg2.connect(postgres.url) as admin, admin.cursor() as cursor:
        for _ in range(2):  # the replacement is looked at as well
            pid = db.session.scalar(text("SELECT pg_backend_pid()"))
            release_connection()
            cursor.execute("SELECT pg_terminate_backend(%s, 2000)", (pid,))
        assert db.session.scalar(text("SELECT pg_backend_pid()")) != pid
    admin.close()


def test_a_server_that_ends_each_connection_at_once_is_absent(make_app, user, postgres):
    def end(connection, _record):
        with psycopg2.connect(postgres.url) as admin, admin.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 2000)", (connection.info.backend_pid,))
        admin.close()

    ending, headers = make_app(), {"Authorization": f"Bearer {user.access_token}"}
    assert ending.test_client().get("/user/me", headers=headers).status_code == 200
    with ending.app_context():
        db.engine.dispose()
        event.listen(db.engine, "connect", end)
    assert_problem(ending.test_client().get("/user/me", headers=headers), 503, "service_unavailable")
    with ending.app_context():
        event.remove(db.engine, "connect", end)
    assert ending.test_client().get("/user/me", headers=headers).status_code == 200


@pytest.mark.parametrize("state", ["57014", "40P01", "55P03"])
def test_a_task_that_meets_a_defect_fails_with_it(failing_app, state):
    with pytest.raises(OperationalError, match="Ada"):
        failing_app.task(state)


def test_a_task_that_meets_an_absence_ends(failing_app):
    assert failing_app.task("57P01") is None


@pytest.mark.parametrize("state", ["57014", "40P01", "55P03"])
def test_a_defect_is_503_and_the_log_shows_where_it_came_from(failing_app, caplog, state):
    response = failing_app.test_client().get(f"/fail/{state}")
    assert_problem(response, 503, "service_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info
    assert record.getMessage() == "PostgreSQL aborted a statement"


def test_an_absence_is_503_in_one_line(failing_app, caplog):
    assert_problem(failing_app.test_client().get("/fail/57P01"), 503, "service_unavailable")
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert not record.exc_info
    assert record.getMessage().startswith("A dependency does not answer: ")
