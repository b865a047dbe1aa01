"""A stranger who signs up with a number that is not his gains nothing by it, whenever he does."""

import pytest

from tests.auth.conftest import Visitor
from tests.problems import assert_problem

OWN, STRANGE = "the-owners-own-password", "what-the-stranger-chose"


@pytest.fixture
def stranger(app, visitor) -> Visitor:
    """Somebody who knows the number, at the same address as its owner."""
    return Visitor(app, visitor.mobile)


def verify(visitor):
    tokens = visitor.verify(visitor.send_otp().json["otp"])
    assert tokens.status_code == 200
    return tokens.json


def test_signup_takes_no_password(visitor):
    body = assert_problem(visitor.sign_up(password=OWN), 422, "validation_error")
    assert body["errors"] == {"password": ["Unknown field."]}
    assert_problem(visitor.verify(visitor.send_otp().json["otp"]), 404, "account_not_found")


def test_owner_has_no_password_from_a_strangers_signup_and_sets_one_after_the_first_login(stranger, visitor):
    stranger.sign_up(name="Mallory", password=STRANGE)
    stranger.sign_up(name="Mallory")
    tokens = verify(visitor)
    assert tokens["user"]["has_password"] is False
    assert visitor.login(STRANGE).status_code == 401
    assert visitor.post("/auth/change-password", token=tokens["access_token"], new_password=OWN).status_code == 200
    assert visitor.login(OWN).json["user"]["has_password"] is True


def test_a_strangers_signup_between_code_and_verification_changes_only_the_name(stranger, visitor):
    visitor.sign_up(name="Ada")
    otp = visitor.send_otp().json["otp"]
    stranger.sign_up(name="Mallory")
    user = visitor.verify(otp).json["user"]
    assert (user["name"], user["has_password"]) == ("Mallory", False)


def test_a_strangers_signup_after_verification_changes_nothing(stranger, visitor):
    visitor.sign_up(name="Ada")
    tokens = verify(visitor)
    assert_problem(stranger.sign_up(name="Mallory"), 409, "account_exists")
    assert visitor.me(tokens["access_token"]).json == tokens["user"]
    assert tokens["user"]["name"] == "Ada"


def test_reset_of_an_unverified_number_verifies_it_with_the_new_password(stranger, visitor):
    stranger.sign_up()
    assert visitor.reset(visitor.forgot().json["otp"], OWN).status_code == 204
    assert visitor.login(OWN).status_code == 200
    assert_problem(stranger.sign_up(), 409, "account_exists")
