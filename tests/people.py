"""People: clients of an application, with a token or without one, and their numbers."""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.errors import LockNotAvailable, QueryCanceled
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from werkzeug.test import TestResponse

from app.auth.sessions import open_session
from app.core.clock import utc_now
from app.core.db import db
from app.core.http import Client
from app.core.transactions import transaction
from app.users.service import mobile_key, replace_unverified


class PatientClient(FlaskClient):
    """A client whose calls return after the answer and what follows it. For a stream they return at once."""

    def open(self, *args: Any, buffered: bool | None = None, **kwargs: Any) -> TestResponse:
        answer = super().open(*args, buffered=bool(buffered), **kwargs)
        if buffered is None and answer.mimetype != "text/event-stream":
            answer.make_sequence()
            answer.close()
        return answer


@dataclass
class Person:
    """A user with a token, and the requests made with it."""

    client: FlaskClient
    id: str
    mobile: str
    access_token: str
    refresh_token: str

    def call(self, method: str, path: str, **kwargs: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {self.access_token}"} | kwargs.pop("headers", {})
        return self.client.open(path, method=method, headers=headers, **kwargs)

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.call("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> TestResponse:
        return self.call("POST", path, **kwargs)

    def patch(self, path: str, **kwargs: Any) -> TestResponse:
        return self.call("PATCH", path, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> TestResponse:
        return self.call("DELETE", path, **kwargs)

    def make_chatroom(self, title: str = "A room") -> str:
        """Open a chatroom. Returns its path."""
        response = self.post("/chatroom", json={"title": title})
        assert response.status_code == 201, response.text
        return f"/chatroom/{response.json['id']}"


@pytest.fixture(scope="session")
def mobile_numbers() -> Iterator[str]:
    """Valid numbers, each given out once."""
    return (f"+1415555{number:04}" for number in itertools.count(1000))


def age_codes(app: Flask, mobile: str, *, seconds: float) -> None:
    """Let time pass for everything about the number's codes, so that the next one can be asked for."""
    clocks = {
        "one_time_codes": ("created_at", "expires_at"),
        "number_guards": ("wrong_codes_since", "password_tries_since", "touched_at"),
    }
    with app.app_context():
        for table, columns in clocks.items():
            turned = ", ".join(f"{column} = {column} - make_interval(secs => :seconds)" for column in columns)
            statement = text(f"UPDATE {table} SET {turned} WHERE mobile_key = :key")
            db.session.execute(statement, {"seconds": seconds, "key": mobile_key(mobile)})
        db.session.commit()


def log_in(client: FlaskClient, mobile: str) -> TestResponse:
    """Ask for a code, long after the last one, and trade it for tokens."""
    age_codes(client.application, mobile, seconds=3_601)
    sent = client.post("/auth/send-otp", json={"mobile": mobile})
    assert sent.status_code == 202, sent.text
    return client.post("/auth/verify-otp", json={"mobile": mobile, "otp": sent.json["otp"]})


@pytest.fixture
def make_user(app: Flask, mobile_numbers: Iterator[str]) -> Callable[..., Person]:
    """Make a person who has signed up and logged in.

    This writes to the database: most tests begin with it, and through the API it takes four times as long.
    """

    def make(*, mobile: str | None = None, name: str | None = None) -> Person:
        mobile, now = mobile or next(mobile_numbers), utc_now()
        with app.app_context(), transaction() as tx:
            user = replace_unverified(mobile, name=name, now=now)
            assert user is not None, "the number is somebody's"
            user.verified_at = now
            tokens = open_session(tx, user, Client(ip="127.0.0.1", user_agent=None), now)
            return Person(app.test_client(), str(user.id), mobile, tokens.access_token, tokens.refresh_token)

    return make


@pytest.fixture
def user(make_user: Callable[..., Person]) -> Person:
    return make_user()


class AbortedStatements(logging.Handler):
    """Collects the errors with which PostgreSQL ended requests, except for waits that took too long."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[OperationalError] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OperationalError) and not isinstance(error.orig, LockNotAvailable | QueryCanceled):
            self.errors.append(error)


@contextmanager
def no_deadlocks() -> Iterator[None]:
    """Fail if PostgreSQL ended a request of the block for another reason than a wait, such as a deadlock."""
    aborted, log = AbortedStatements(), logging.getLogger("app.core.errors")
    log.addHandler(aborted)
    try:
        yield
    finally:
        log.removeHandler(aborted)
    assert not aborted.errors, aborted.errors


def all_at_once(calls: Sequence[Callable[[], Any]], *, retry: bool = True) -> list[Any]:
    """Make all calls at the same moment. Returns what came of each, in their order.

    retry: repeat the calls that were answered 503, one by one. On a machine under load some wait too long for a row
    that they all lock. Such a call stores and spends nothing. A deadlock fails the test all the same.
    """
    together = threading.Barrier(len(calls))

    def do(call: Callable[[], Any]) -> Any:
        together.wait(60)
        return call()

    with no_deadlocks() if retry else nullcontext(), ThreadPoolExecutor(len(calls)) as threads:
        answers = list(threads.map(do, calls))
    pairs = zip(calls, answers, strict=True)
    return [call() if retry and getattr(answer, "status_code", None) == 503 else answer for call, answer in pairs]
