"""A stranger who gives a password for a number that is not his gains nothing by it."""

import pytest

from tests.auth.conftest import Visitor
from tests.conftest import age_codes
from tests.problems import assert_problem

OWN, STRANGE = "the-owners-own-password", "what-the-stranger-chose"


@pytest.fixture
def stranger(app, visitor) -> Visitor:
    """Somebody elsewhere who knows the number."""
    return Visitor(app, visitor.mobile, ip="198.51.100.9")


def verify(visitor):
    tokens = visitor.verify(visitor.send_otp().json["otp"])
    assert tokens.status_code == 200
    return tokens.json


def test_password_of_a_signup_counts_once_the_number_is_verified(visitor):
    visitor.sign_up(password=OWN)
    assert_problem(visitor.login(OWN), 401, "invalid_credentials")
    assert verify(visitor)["user"]["has_password"] is True
    assert visitor.login(OWN).status_code == 200


def test_signup_says_nothing_of_a_password_before(visitor):
    assert visitor.sign_up(password=OWN).json["has_password"] is False


def test_newer_signup_replaces_the_older_with_its_password(visitor):
    visitor.sign_up(name="First", password=STRANGE)
    visitor.sign_up(name="Second", password=OWN)
    assert verify(visitor)["user"]["name"] == "Second"
    assert visitor.login(STRANGE).status_code == 401
    assert visitor.login(OWN).status_code == 200


def test_signup_without_a_password_leaves_none_behind(visitor):
    visitor.sign_up(password=STRANGE)
    visitor.sign_up()
    assert verify(visitor)["user"]["has_password"] is False
    assert visitor.login(STRANGE).status_code == 401


def test_stranger_who_was_first(stranger, visitor):
    stranger.sign_up(password=STRANGE)
    visitor.sign_up(password=OWN)
    verify(visitor)
    assert visitor.login(STRANGE).status_code == 401
    assert visitor.login(OWN).status_code == 200


def test_stranger_between_signup_and_code(stranger, visitor):
    visitor.sign_up(password=OWN)
    stranger.sign_up(password=STRANGE)
    assert verify(visitor)["user"]["has_password"] is False
    assert visitor.login(STRANGE).status_code == 401


def test_stranger_between_code_and_verification(visitor):
    visitor.sign_up(password=OWN)
    otp = visitor.send_otp().json["otp"]
    visitor.sign_up(password=STRANGE)  # even from the same address
    assert visitor.verify(otp).json["user"]["has_password"] is False
    assert visitor.login(STRANGE).status_code == 401


def test_stranger_signs_up_for_somebody_who_never_does(stranger, visitor):
    stranger.sign_up(password=STRANGE)
    assert verify(visitor)["user"]["has_password"] is False
    assert visitor.login(STRANGE).status_code == 401


def test_stranger_after_verification_changes_nothing(stranger, visitor):
    visitor.sign_up(password=OWN)
    verify(visitor)
    assert_problem(stranger.sign_up(name="Mallory", password=STRANGE), 409, "account_exists")
    assert visitor.login(STRANGE).status_code == 401
    assert visitor.login(OWN).json["user"]["name"] is None


@pytest.mark.parametrize("address", ["", "unix:", "not an address"])
def test_two_who_come_from_nowhere_are_not_taken_for_one(app, visitor, address):
    nobody, other = Visitor(app, visitor.mobile, ip=address), Visitor(app, visitor.mobile, ip=address)
    nobody.sign_up(password=STRANGE)
    assert verify(other)["user"]["has_password"] is False
    assert visitor.login(STRANGE).status_code == 401


@pytest.mark.parametrize("address", ["198.51.100.9:{}", "[2001:db8::1]:{}", "::ffff:198.51.100.9"])
def test_owner_is_the_same_on_another_port(app, visitor, address):
    Visitor(app, visitor.mobile, ip=address.format(5123)).sign_up(password=OWN)
    assert verify(Visitor(app, visitor.mobile, ip=address.format(5124)))["user"]["has_password"] is True
    assert visitor.login(OWN).status_code == 200


def test_code_asked_for_before_the_signup_verifies_it_without_its_password(visitor):
    otp = visitor.send_otp().json["otp"]
    visitor.sign_up(password=STRANGE)
    assert visitor.verify(otp).json["user"]["has_password"] is False


def test_owner_whose_password_was_dropped_sets_one_at_once(app, stranger, visitor):
    stranger.sign_up(password=STRANGE)
    token = verify(visitor)["access_token"]
    assert visitor.post("/auth/change-password", token=token, new_password=OWN).status_code == 200
    assert visitor.login(OWN).status_code == 200


def test_reset_of_an_unverified_number_leaves_the_new_password_alone(app, stranger, visitor):
    stranger.sign_up(password=STRANGE)
    assert visitor.reset(visitor.forgot().json["otp"], OWN).status_code == 204
    assert visitor.login(STRANGE).status_code == 401
    assert visitor.login(OWN).status_code == 200
    age_codes(app, visitor.mobile, seconds=61)
    assert visitor.login(STRANGE).status_code == 401
