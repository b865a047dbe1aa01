"""What tests of accounts share."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse


class Visitor:
    """Somebody with a number and no token, at an address of his own."""

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
    """Somebody who has verified his number, and set the password if one is given, long ago; and his tokens."""

    def make(*, password: str | None = None, **signup: Any) -> tuple[Visitor, dict[str, Any]]:
        from tests.conftest import age_codes

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


def wrong(otp: str) -> str:
    """Another code."""
    return f"{(int(otp) + 1) % 1_000_000:06}"


def all_at_once(calls: list[Callable[[], TestResponse]], *, retry: bool = True) -> list[TestResponse]:
    """The calls' answers, in their order.

    retry: ask again, one by one, what was answered 503. A machine under load lets some wait for too long at the
    number's row; that stores and spends nothing.
    """
    with ThreadPoolExecutor(len(calls)) as pool:
        answers = list(pool.map(lambda call: call(), calls))
    pairs = zip(calls, answers, strict=True)
    return [call() if retry and answer.status_code == 503 else answer for call, answer in pairs]
