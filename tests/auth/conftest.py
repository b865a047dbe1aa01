"""Fixtures and helpers for the tests of accounts."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from app.core.db import db

PASSWORD = "correct horse battery"


class Visitor:
    """Somebody with a number, an address of his own, and no token."""

    def __init__(self, app: Flask, mobile: str, ip: str = "203.0.113.7") -> None:
        self.app, self.mobile, self.ip = app, mobile, ip

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def post(self, path: str, *, token: str | None = None, **body: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.client.post(path, json=body, headers=headers, environ_overrides={"REMOTE_ADDR": self.ip})

    def sign_up(self, **body: Any) -> TestResponse:
        return self.post("/auth/signup", mobile=self.mobile, **body)

    def send_otp(self) -> TestResponse:
        return self.post("/auth/send-otp", mobile=self.mobile)

    def forgot(self) -> TestResponse:
        return self.post("/auth/forgot-password", mobile=self.mobile)

    def verify(self, otp: str) -> TestResponse:
        return self.post("/auth/verify-otp", mobile=self.mobile, otp=otp)

    def reset(self, otp: str, new_password: str) -> TestResponse:
        return self.post("/auth/reset-password", mobile=self.mobile, otp=otp, new_password=new_password)

    def login(self, password: str) -> TestResponse:
        return self.post("/auth/login", mobile=self.mobile, password=password)

    def me(self, token: str) -> TestResponse:
        return self.client.get("/user/me", headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="session")
def other_numbers() -> Iterator[str]:
    return (f"+4915112{number:06}" for number in itertools.count(1))


@pytest.fixture
def visitor(app: Flask, other_numbers: Iterator[str]) -> Visitor:
    """Somebody who has not signed up."""
    return Visitor(app, next(other_numbers))


@pytest.fixture
def make_member(app: Flask, other_numbers: Iterator[str]) -> Callable[..., tuple[Visitor, dict[str, Any]]]:
    """Make somebody who verified a number long ago, with a password if one is given. Returns him and his tokens."""

    def make(*, password: str | None = None, **signup: Any) -> tuple[Visitor, dict[str, Any]]:
        from tests.people import age_codes

        visitor = Visitor(app, next(other_numbers))
        assert visitor.sign_up(**signup).status_code == 201
        tokens = visitor.verify(visitor.send_otp().json["otp"])
        assert tokens.status_code == 200, tokens.text
        if password:
            tokens = visitor.post("/auth/change-password", token=tokens.json["access_token"], new_password=password)
            assert tokens.status_code == 200, tokens.text
        age_codes(app, visitor.mobile, seconds=7_200)
        return visitor, tokens.json  # type: ignore[return-value]

    return make


class Mover(Visitor):
    """A logged-in user who wants another number, `new`."""

    def __init__(self, visitor: Visitor, tokens: dict[str, Any], new: str) -> None:
        super().__init__(visitor.app, visitor.mobile)
        self.token, self.id, self.new = tokens["access_token"], tokens["user"]["id"], new

    def ask(self, new: str | None = None) -> TestResponse:
        return self.post("/auth/change-mobile", token=self.token, new_mobile=new or self.new)

    def change(self, otp: str, new: str | None = None, **proof: Any) -> TestResponse:
        body = {"new_mobile": new or self.new, "otp": otp} | proof
        return self.post("/auth/change-mobile/verify", token=self.token, **body)

    def codes(self) -> tuple[str, str]:
        """Ask for new codes. Returns the new number's and the current number's."""
        sent = self.ask()
        assert sent.status_code == 202, sent.text
        return sent.json["otp"], sent.json["current_otp"]  # type: ignore[index]


@pytest.fixture
def make_mover(make_member: Callable[..., Any], other_numbers: Iterator[str]) -> Callable[..., Mover]:
    def make(**member: Any) -> Mover:
        visitor, tokens = make_member(**member)
        return Mover(visitor, tokens, next(other_numbers))

    return make


@pytest.fixture
def mover(make_mover: Callable[..., Mover]) -> Mover:
    return make_mover(password=PASSWORD)


def sql(app: Flask, statement: str, **values: Any) -> Any:
    """Run a statement and commit. Returns its rows, if it has any."""
    with app.app_context():
        result: Any = db.session.execute(text(statement), values)
        rows = result.all() if result.returns_rows else None
        db.session.commit()
        return rows


def wrong(otp: str) -> str:
    """Return another code than this one."""
    return f"{(int(otp) + 1) % 1_000_000:06}"


BOTH = ["chat:read", "chat:write"]  # the scopes of API keys


def make_key(user: Any, **body: Any) -> dict[str, Any]:
    answer = user.post("/user/api-keys", json={"name": "CI", "scopes": BOTH} | body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json
    return made


class Program:
    """A program that calls the API with a key."""

    def __init__(self, app: Flask, key: str) -> None:
        self.client, self.headers = app.test_client(), {"Authorization": f"Bearer {key}"}

    def call(self, method: str, path: str, **kwargs: Any) -> TestResponse:
        return self.client.open(path, method=method, headers=self.headers | kwargs.pop("headers", {}), **kwargs)

    def get(self, path: str) -> TestResponse:
        return self.call("GET", path)


@pytest.fixture
def program(app: Flask, user: Any) -> Program:
    return Program(app, make_key(user)["key"])
