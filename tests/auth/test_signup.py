"""Signing up: a claim to a number, which counts for nothing until a code proves it."""

from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest

from app.account.tasks import delete_ended
from app.auth.models import AuthSession
from app.core.clock import utc_now
from app.core.db import db
from app.users.models import User
from tests.auth.conftest import Visitor
from tests.people import all_at_once
from tests.problems import assert_problem


def count(app, model) -> int:
    with app.app_context():
        return db.session.scalar(db.select(db.func.count()).select_from(model))


def verify(visitor) -> dict:
    return visitor.verify(visitor.send_otp().json["otp"]).json["user"]


def test_signup_returns_the_user(visitor):
    response = visitor.sign_up(name=" Ada ")
    assert response.status_code == 201
    user = response.json
    assert list(user) == ["id", "mobile", "name", "tier", "has_password", "created_at"]
    assert UUID(user["id"]).version == 7
    assert user == user | {"mobile": visitor.mobile, "name": "Ada", "tier": "basic", "has_password": False}
    assert user["created_at"].endswith("Z")


@pytest.mark.parametrize("fields", [{}, {"name": None}])
def test_name_may_be_left_out_or_null(visitor, fields):
    assert visitor.sign_up(**fields).json["name"] is None


@pytest.mark.parametrize("name", ["a" * 101, " ", 7])
def test_a_bad_name_is_422(visitor, name):
    body = assert_problem(visitor.sign_up(name=name), 422, "validation_error")
    assert list(body["errors"]) == ["name"]


def test_signup_without_verification_gives_no_access(app, visitor):
    response = visitor.sign_up()
    assert "token" not in response.text
    assert response.json["has_password"] is False
    assert count(app, AuthSession) == 0


def test_signup_of_a_verified_number_is_refused_and_neither_shows_nor_changes_the_account(app, make_user):
    ada = make_user(name="Ada")
    response = Visitor(app, ada.mobile).sign_up(name="Mallory")
    assert_problem(response, 409, "account_exists")
    assert ada.id not in response.text
    assert "Ada" not in response.text
    me = ada.get("/user/me").json
    assert (me["name"], me["has_password"]) == ("Ada", False)


def test_signup_that_was_never_verified_is_replaced(app, visitor):
    first = visitor.sign_up(name="Mallory").json
    second = visitor.sign_up(name="Ada").json
    assert second["name"] == "Ada"
    assert second["id"] != first["id"]
    assert verify(visitor) == second
    assert second["has_password"] is False
    assert count(app, User) == 1


def test_parallel_signups_of_one_number_make_one_user(app, visitor):
    answers = all_at_once([lambda number=number: visitor.sign_up(name=f"N{number}") for number in range(20)])
    assert Counter(answer.status_code for answer in answers) == {201: 20}
    assert count(app, User) == 1


def test_a_signup_that_nobody_verifies_is_forgotten_after_a_day(app, visitor, make_member):
    make_member()
    visitor.sign_up(name="Ada")
    with app.app_context():
        assert delete_ended(now=utc_now() + timedelta(hours=23))["signups"] == 0
        assert delete_ended(now=utc_now() + timedelta(hours=25))["signups"] == 1
    assert visitor.sign_up().status_code == 201
