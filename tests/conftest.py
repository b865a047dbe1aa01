"""The base of every test: real PostgreSQL and Valkey from wheels, the stand-ins, and a real worker process.

A test gets an empty database and an empty Valkey. Only external services are stand-ins.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.errors import DeadlockDetected
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from app.account.tasks import purge_account, purge_chatroom
from app.core import http
from app.core.db import answers_within, db
from app.factory import create_app
from config import Settings, load_settings
from sandbox.stack.processes import wait_until
from sandbox.stand_ins import GeminiStandIn, running_gemini_stand_in
from tests.celery_process import celery_process
from tests.people import PatientClient
from tests.servers import (
    DATABASES_EACH,
    Database,
    own_database,
    process_number,
    pytest_configure,  # noqa: F401 - pytest looks for its hooks here
    pytest_configure_node,  # noqa: F401
    servers_of_run,
)
from tests.transactions import watch_writes

pytest_plugins = ["tests.people", "tests.rooms", "tests.running"]

# What the product's processes, the sandbox's and their libraries read besides the settings.
FAMILIES = ("CELERY_", "FLASK_", "GUNICORN_", "PG", "PROMETHEUS_", "WEB_", "WORKER_")
OTHER_VARIABLES = {"BASE_URL", "ENV_FILE", "FORWARDED_ALLOW_IPS", "PORT", "SANDBOX_VAR"}


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> None:
    """Keep the developer's variables and `.env` away from the tests and the processes that they start."""
    settings = {field.upper() for field in Settings.model_fields}
    for name in list(os.environ):
        if name in settings | OTHER_VARIABLES or name.startswith(FAMILIES) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["APP_ENV"] = "development"
    os.environ["ENV_FILE"] = os.devnull
    os.environ["FLASK_SKIP_DOTENV"] = "1"  # the `flask` command reads a `.env` by itself


@pytest.fixture(scope="session", autouse=True)
def writes_in_transactions() -> None:
    """Fail each test in which the product writes or locks outside of `transaction()`."""
    watch_writes()


@pytest.fixture(scope="session")
def valkey(pytestconfig: pytest.Config) -> Database:
    """The first of this process's databases on the run's Valkey."""
    first = process_number(pytestconfig) * DATABASES_EACH
    return Database(f"{servers_of_run(pytestconfig)['valkey']}/{first}")


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config, clean_environment: None, valkey: Database) -> Database:
    """This process's own database on the run's PostgreSQL, migrated."""
    name = f"tests_{process_number(pytestconfig)}"
    return own_database(servers_of_run(pytestconfig)["postgres"], name, redis_url=valkey.url)


@pytest.fixture(scope="session")
def gemini_process() -> Iterator[GeminiStandIn]:
    with running_gemini_stand_in(pace=0) as stand_in:
        yield stand_in


@pytest.fixture
def gemini(gemini_process: GeminiStandIn) -> Iterator[GeminiStandIn]:
    """The Gemini stand-in, which is reset after the test."""
    yield gemini_process
    gemini_process.reset()


@pytest.fixture(scope="session")
def environment(
    clean_environment: None, postgres: Database, valkey: Database, gemini_process: GeminiStandIn
) -> dict[str, str]:
    """The variables that the product runs with, here and in the processes that tests start."""
    return {
        "APP_ENV": "development",
        "DATABASE_URL": postgres.url,
        "REDIS_URL": valkey.url,
        "JWT_SECRET": "a-secret-of-the-tests-long-enough-for-hs256",
        "GEMINI_API_KEY": "sandbox-key",
        "GEMINI_API_ENDPOINT": gemini_process.url,
        "GEMINI_TIMEOUT": "5",
        "RATE_LIMIT_PER_MINUTE": "0",
    }


@pytest.fixture(scope="session")
def make_redis_url(valkey: Database) -> Callable[[], str]:
    """Return the URL of an emptied Valkey database where no other worker listens."""
    server, _, first = valkey.url.rpartition("/")
    numbers = itertools.cycle(range(int(first) + 1, int(first) + DATABASES_EACH - 1))  # the last is the worker's

    def make() -> str:
        url = f"{server}/{next(numbers)}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    return make


@pytest.fixture
def own_environment(environment: dict[str, str], make_redis_url: Callable[[], str]) -> dict[str, str]:
    """The variables of processes whose tasks no other worker of the tests takes."""
    return environment | {"REDIS_URL": make_redis_url()}


@pytest.fixture(scope="session")
def make_app(environment: dict[str, str]) -> Callable[..., Flask]:
    """Make an application with these settings in place of the usual ones."""

    def make(**overrides: Any) -> Flask:
        values = {name.lower(): value for name, value in environment.items()} | overrides
        app = create_app(load_settings(**values))
        app.test_client_class = PatientClient
        return app

    return make


@pytest.fixture(scope="session")
def migrated_app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


def empty_tables(app: Flask) -> None:
    """Delete every row in one round trip, in a tenth of the time that TRUNCATE takes on tables this small.

    A worker may still be deleting an earlier test's rows in another order. After a deadlock this tries again.
    """
    deletions = "; ".join(f"DELETE FROM {table}" for table in reversed(db.metadata.sorted_tables))
    unhurried = text(f"SET LOCAL statement_timeout = '60s'; {deletions}")  # thousands of rows on a busy machine
    with app.app_context(), answers_within(60):
        for is_last in (False, False, True):
            try:
                db.session.execute(unhurried)
            except OperationalError as error:
                if is_last or not isinstance(error.orig, DeadlockDetected):
                    raise
                db.session.rollback()
            else:
                return


@pytest.fixture
def app(request: pytest.FixtureRequest, redis_db: redis.Redis) -> Flask:
    """The application with an empty database. Its tasks wait, unless the test has a `worker`."""
    return fresh(request.getfixturevalue("served_app" if has_worker(request) else "migrated_app"))


def has_worker(request: pytest.FixtureRequest) -> bool:
    return "worker" in request.fixturenames


def fresh(app: Flask) -> Flask:
    """Prepare an application for the next test: no rows, and Celery's default instead of any that a test made."""
    empty_tables(app)
    app.extensions["celery"].set_default()
    return app


@pytest.fixture
def redis_db(request: pytest.FixtureRequest, redis_clients: Callable[[str], redis.Redis]) -> redis.Redis:
    """A client of the application's own Valkey database, emptied."""
    name = "served_environment" if has_worker(request) else "environment"
    client = redis_clients(request.getfixturevalue(name)["REDIS_URL"])
    client.flushdb()
    return client


@pytest.fixture(scope="session")
def redis_clients() -> Iterator[Callable[[str], redis.Redis]]:
    """Return the client of a URL, the same one for all tests."""
    with ExitStack() as exits:
        yield cache(lambda url: exits.enter_context(redis.Redis.from_url(url)))


def purge_all(app: Flask) -> None:
    """Purge what was deleted, as a worker does in the background."""
    with app.app_context():
        while purge_account() or purge_chatroom():
            pass


@pytest.fixture
def drain() -> Iterator[Callable[[], None]]:
    """Let this process drain, as it does before it ends, until the test is over."""
    draining: list[bool] = []
    http.add_drain_signal(lambda: bool(draining))
    yield lambda: draining.append(True)
    draining.clear()


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    """Collect every statement that is sent to the database."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client without a token."""
    return app.test_client()


@pytest.fixture(scope="session")
def served_environment(environment: dict[str, str], valkey: Database) -> dict[str, str]:
    """The variables of the worker that lasts as long as the tests. It takes no tasks of tests without `worker`."""
    server, _, first = valkey.url.rpartition("/")
    return environment | {"REDIS_URL": f"{server}/{int(first) + DATABASES_EACH - 1}"}


@pytest.fixture(scope="session")
def served_app(make_app: Callable[..., Flask], served_environment: dict[str, str]) -> Flask:
    return make_app(redis_url=served_environment["REDIS_URL"])


@pytest.fixture(scope="session")
def worker_process(served_environment: dict[str, str], tmp_path_factory: Any) -> Iterator[Path]:
    """Run a real Celery worker. Yields its log file."""
    log_file = tmp_path_factory.mktemp("worker") / "worker.log"
    with celery_process("worker", served_environment, log_file):
        assert wait_until(lambda: " ready." in log_file.read_text(), seconds=30), log_file.read_text()
        yield log_file


@pytest.fixture
def worker(worker_process: Path, app: Flask, gemini: GeminiStandIn) -> Path:
    """Let a worker generate replies during the test; `app` is then one that it works for. Returns its log file."""
    return worker_process
