"""From a code to tokens."""

import jwt
import pytest

from app.auth.models import AuthSession
from app.core.db import db
from app.users.models import User
from tests.auth.conftest import Visitor, wrong
from tests.people import age_codes, log_in
from tests.problems import assert_problem


def test_right_code_gives_tokens_and_verifies_the_number(app, visitor):
    signed_up = visitor.sign_up(name="Ada").json
    response = visitor.verify(visitor.send_otp().json["otp"])
    assert response.status_code == 200
    tokens = response.json
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in", "user"}
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 86_400
    assert tokens["user"] == signed_up
    assert response.headers["Cache-Control"] == "no-store"
    assert visitor.me(tokens["access_token"]).json == signed_up
    with app.app_context():
        assert db.session.scalars(db.select(User.verified_at)).one() is not None


def test_tokens_last_as_long_as_configured(make_app, user):
    tokens = log_in(make_app(jwt_expires_in="30m").test_client(), user.mobile).json
    assert tokens["expires_in"] == 1800
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 1800
    assert isinstance(claims["sub"], str)


def test_logging_in_again_is_another_session_of_the_same_user(app, user):
    again = log_in(user.client, user.mobile).json
    assert again["user"]["id"] == user.id
    assert again["access_token"] != user.access_token
    assert user.get("/user/me").status_code == 200
    with app.app_context():
        assert len(db.session.scalars(db.select(AuthSession)).all()) == 2


def test_code_may_have_blanks_around_it(visitor):
    visitor.sign_up()
    assert visitor.verify(f" {visitor.send_otp().json['otp']} ").status_code == 200


@pytest.mark.parametrize(
    "text", ["", "12345", "1234567", "abcdef", "１２３４５６", "null", "      ", "' OR ''='", "a" * 16]
)
def test_malformed_code_is_refused_and_costs_no_guess(visitor, text):
    visitor.sign_up()
    otp = visitor.send_otp().json["otp"]
    response = visitor.verify(text)
    assert response.json["code"] in {"otp_invalid", "validation_error"}
    assert_problem(response, 401 if response.json["code"] == "otp_invalid" else 422, response.json["code"])
    assert visitor.verify(otp).status_code == 200


@pytest.mark.parametrize("value", [123456, None, ["123456"], {"$ne": ""}, True])
def test_a_code_that_is_not_a_string_is_422(visitor, value):
    visitor.sign_up()
    assert_problem(visitor.verify(value), 422, "validation_error")


def test_wrong_expired_used_foreign_and_missing_codes_are_answered_alike(app, other_numbers):
    used, late, guessed, resetting, without = (Visitor(app, next(other_numbers)) for _ in range(5))
    for visitor in (used, late, guessed, resetting):
        visitor.sign_up()
    otp = used.send_otp().json["otp"]
    assert used.verify(otp).status_code == 200
    expired = late.send_otp().json["otp"]
    age_codes(app, late.mobile, seconds=300)
    answers = [
        used.verify(otp),
        late.verify(expired),
        guessed.verify(wrong(guessed.send_otp().json["otp"])),
        resetting.verify(resetting.forgot().json["otp"]),
        without.verify("123456"),
    ]
    bodies = [assert_problem(answer, 401, "otp_invalid") | {"request_id": ""} for answer in answers]
    assert all(body == bodies[0] for body in bodies)
    assert len({answer.headers["WWW-Authenticate"] for answer in answers}) == 1
