"""From a mobile number to tokens: sign up, prove the number by a code, log in."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import jwt
import pytest
from flask import Flask

from app.auth.codes import hash_code
from app.auth.models import OneTimeCode, Purpose
from app.core.clock import utc_now
from app.core.database import db
from tests.problems import assert_problem

AT_ONCE = 20


@pytest.fixture
def mobile(mobile_numbers: Iterator[str]) -> str:
    return next(mobile_numbers)


@pytest.fixture
def sign_up(client: Any) -> Callable[..., Any]:
    return lambda mobile, **fields: client.post("/auth/signup", json={"mobile": mobile, **fields})


@pytest.fixture
def ask_for_code(app: Flask) -> Callable[[str], str]:
    """Ask for a code, whoever asked before; the code."""

    def ask(mobile: str) -> str:
        let_time_pass(app, "2 minutes")
        response = app.test_client().post("/auth/send-otp", json={"mobile": mobile})
        assert response.status_code == 202, response.text
        return response.json["otp"]

    return ask


@pytest.fixture
def verify(client: Any) -> Callable[..., Any]:
    return lambda mobile, otp: client.post("/auth/verify-otp", json={"mobile": mobile, "otp": otp})


def let_time_pass(app: Flask, interval: str) -> None:
    """Make every code older, as if it had been asked for that much earlier."""
    with app.app_context():
        db.session.execute(
            db.text(
                "UPDATE one_time_codes SET created_at = created_at - interval :passed,"
                " expires_at = expires_at - interval :passed".replace(":passed", f"'{interval}'")
            )
        )
        db.session.commit()


def turn_into_reset_code(app: Flask, mobile: str, code: str) -> str:
    """Make the only live code of the number one that was asked for to reset the password."""
    with app.app_context():
        changed = {"purpose": Purpose.RESET_PASSWORD, "code_hash": hash_code(mobile, Purpose.RESET_PASSWORD, code)}
        mine = OneTimeCode.code_hash == hash_code(mobile, Purpose.LOGIN, code)
        db.session.execute(db.update(OneTimeCode).where(mine).values(changed))
        db.session.commit()
    return code


def count(app: Flask, query: str) -> int:
    with app.app_context():
        return db.session.scalar(db.text(query))


def another(code: str) -> str:
    """A code that is not this one."""
    return f"{(int(code) + 1) % 1_000_000:06}"


def at_once(action: Callable[[int], Any], times: int = AT_ONCE) -> list[Any]:
    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(action, range(times)))


def test_signup_tells_the_user(sign_up, mobile):
    response = sign_up(mobile, name=" Ada ")
    assert response.status_code == 201
    user = response.json
    assert list(user) == ["id", "mobile", "name", "tier", "has_password", "created_at"]
    assert UUID(user["id"]).version == 7
    assert user == user | {"mobile": mobile, "name": "Ada", "tier": "basic", "has_password": False}
    assert user["created_at"].endswith("Z")


def test_name_and_password_may_be_left_out_or_null(sign_up, mobile_numbers):
    assert sign_up(next(mobile_numbers)).json["name"] is None
    assert sign_up(next(mobile_numbers), name=None, password=None).json["name"] is None


@pytest.mark.parametrize(
    "spelling",
    [
        "+1 415 555 2671",
        "+1 (415) 555-2671",
        "+1-415-555-2671",
        "+1.415.555.2671",
        " +14155552671 ",
        "+１４１５５５５２６７１",
    ],
)
def test_every_international_spelling_is_the_same_number(sign_up, ask_for_code, verify, spelling):
    assert sign_up(spelling).json["mobile"] == "+14155552671"
    code = ask_for_code("+14155552671")
    assert verify(spelling, code).json["user"]["mobile"] == "+14155552671"
    assert_problem(sign_up("+14155552671"), 409, "account_exists")


@pytest.mark.parametrize(
    ("spelling", "stored"),
    [
        ("+44 (0)20 7946 0958", "+442079460958"),
        ("+91 98765 43210", "+919876543210"),
        ("+49 1512 3456789", "+4915123456789"),
    ],
)
def test_numbers_of_other_countries_are_taken(sign_up, spelling, stored):
    assert sign_up(spelling).json["mobile"] == stored


@pytest.mark.parametrize(
    "wrong",
    [
        "4155552671",
        "0014155552671",
        "(415) 555-2671",
        "+1",
        "+",
        "+1415555267",
        "+141555526710000",
        "+999123456789",
        "+1 415 555 2671 ext. 5",
        "tel:+14155552671;ext=5",
        "hello",
        "+" + "1" * 31,
        "+" + "1" * 5_000,
        "+14155552671\u0000",
        "\u200f+14155552671\u202c x",
    ],
)
@pytest.mark.parametrize("path", ["/auth/signup", "/auth/send-otp", "/auth/verify-otp"])
def test_what_is_no_number_with_a_country_code_is_422(app, client, path, wrong):
    body = {"mobile": wrong} | ({"otp": "123456"} if path == "/auth/verify-otp" else {})
    assert list(assert_problem(client.post(path, json=body), 422, "validation_error")["errors"]) == ["mobile"]
    assert count(app, "SELECT count(*) FROM users") == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a" * 101),
        ("name", " "),
        ("name", 7),
        ("password", "short"),
        ("password", "a" * 129),
        ("password", 12345678),
    ],
)
def test_name_and_password_have_their_limits(sign_up, mobile, field, value):
    assert list(assert_problem(sign_up(mobile, **{field: value}), 422, "validation_error")["errors"]) == [field]


def test_signup_alone_gives_no_access_and_counts_for_nothing(app, sign_up, mobile):
    response = sign_up(mobile, password="correct horse battery")
    assert "token" not in response.text
    assert response.json["has_password"] is False
    assert count(app, "SELECT count(*) FROM auth_sessions") == 0


def test_code_is_six_digits_and_tells_how_long_it_lasts(client, mobile):
    response = client.post("/auth/send-otp", json={"mobile": mobile})
    assert response.status_code == 202
    assert re.fullmatch(r"\d{6}", response.json["otp"])
    assert response.json["mobile"] == mobile
    assert response.json["expires_in"] == 300
    assert isinstance(response.json["resend_in"], int)


def test_known_and_unknown_numbers_get_the_same_answer(client, user, mobile_numbers, app):
    let_time_pass(app, "2 minutes")
    known = client.post("/auth/send-otp", json={"mobile": user.mobile})
    unknown = client.post("/auth/send-otp", json={"mobile": next(mobile_numbers)})
    hidden = {"mobile": "", "otp": ""}
    assert known.status_code == unknown.status_code == 202
    assert known.json | hidden == unknown.json | hidden
    assert set(known.headers.keys()) == set(unknown.headers.keys())


def test_code_is_not_in_the_answer_unless_that_is_its_delivery(app, make_app, mobile, caplog):
    other = make_app(otp_delivery="log")
    caplog.set_level(logging.WARNING)
    response = other.test_client().post("/auth/send-otp", json={"mobile": mobile})
    assert response.status_code == 202
    assert "otp" not in response.json


def test_codes_are_drawn_from_all_six_digits(client, mobile_numbers):
    codes = [client.post("/auth/send-otp", json={"mobile": next(mobile_numbers)}).json["otp"] for _ in range(80)]
    assert all(re.fullmatch(r"\d{6}", code) for code in codes)
    assert len(set(codes)) >= 78
    assert len({code[0] for code in codes}) >= 6


def test_code_is_stored_as_a_keyed_hash_alone(app, sign_up, ask_for_code, mobile):
    sign_up(mobile)
    code = ask_for_code(mobile)
    with app.app_context():
        [record] = db.session.scalars(db.select(OneTimeCode))
        stored = " ".join(str(getattr(record, column.key)) for column in OneTimeCode.__table__.columns)
        assert code not in re.findall(r"\b\d{6}\b", stored)
        assert mobile.removeprefix("+") not in stored
        assert record.code_hash == hash_code(mobile, Purpose.LOGIN, code)
        assert re.fullmatch(r"[0-9a-f]{64}", record.code_hash)


def test_stored_hash_is_bound_to_its_number_its_purpose_and_our_secret(app, make_app):
    with app.app_context():
        hashes = {
            hash_code("+14155552671", Purpose.LOGIN, "123456"),
            hash_code("+14155552672", Purpose.LOGIN, "123456"),
            hash_code("+14155552671", Purpose.RESET_PASSWORD, "123456"),
            hash_code("+14155552671", Purpose.LOGIN, "123457"),
        }
    with make_app(jwt_secret="another-secret-long-enough-for-hs256-tokens").app_context():
        hashes.add(hash_code("+14155552671", Purpose.LOGIN, "123456"))
    assert len(hashes) == 5


def test_right_code_gives_tokens_and_verifies_the_number(app, sign_up, ask_for_code, verify, mobile):
    signed_up = sign_up(mobile, name="Ada").json
    response = verify(mobile, ask_for_code(mobile))
    assert response.status_code == 200
    tokens = response.json
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in", "user"}
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 86_400
    assert tokens["user"] == signed_up
    assert response.headers["Cache-Control"] == "no-store"
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert app.test_client().get("/user/me", headers=headers).json == signed_up
    assert count(app, "SELECT count(*) FROM users WHERE verified_at IS NOT NULL") == 1


def test_tokens_last_as_long_as_configured(app, make_app, user):
    let_time_pass(app, "2 minutes")
    client = make_app(jwt_expires_in="30m").test_client()
    code = client.post("/auth/send-otp", json={"mobile": user.mobile}).json["otp"]
    tokens = client.post("/auth/verify-otp", json={"mobile": user.mobile, "otp": code}).json
    assert tokens["expires_in"] == 1800
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 1800
    assert isinstance(claims["sub"], str)


def test_code_works_once(sign_up, ask_for_code, verify, mobile):
    sign_up(mobile)
    code = ask_for_code(mobile)
    assert verify(mobile, code).status_code == 200
    assert_problem(verify(mobile, code), 401, "otp_invalid")


def test_code_may_have_blanks_around_it(sign_up, ask_for_code, verify, mobile):
    sign_up(mobile)
    assert verify(mobile, f" {ask_for_code(mobile)} ").status_code == 200


def test_code_expires_after_five_minutes(app, sign_up, ask_for_code, verify, mobile):
    sign_up(mobile)
    code = ask_for_code(mobile)
    let_time_pass(app, "4 minutes 50 seconds")
    with app.app_context():
        assert db.session.scalar(db.select(OneTimeCode.expires_at)) > utc_now()
    let_time_pass(app, "10 seconds")
    assert_problem(verify(mobile, code), 401, "otp_invalid")


def test_code_works_until_it_expires(app, sign_up, ask_for_code, verify, mobile):
    sign_up(mobile)
    code = ask_for_code(mobile)
    let_time_pass(app, "4 minutes 45 seconds")
    assert verify(mobile, code).status_code == 200


def test_new_code_ends_the_one_before(sign_up, ask_for_code, verify, mobile):
    sign_up(mobile)
    first = ask_for_code(mobile)
    while (second := ask_for_code(mobile)) == first:
        pass
    assert_problem(verify(mobile, first), 401, "otp_invalid")
    assert verify(mobile, second).status_code == 200


@pytest.mark.parametrize(
    "wrong", ["", "12345", "1234567", "abcdef", "１２３４５６", "null", "      ", "' OR ''='", "a" * 16]
)
def test_what_is_no_code_is_refused_and_spoils_nothing(sign_up, ask_for_code, verify, mobile, wrong):
    sign_up(mobile)
    code = ask_for_code(mobile)
    response = verify(mobile, wrong)
    assert response.json["code"] in {"otp_invalid", "validation_error"}
    assert_problem(response, 401 if response.json["code"] == "otp_invalid" else 422, response.json["code"])
    assert verify(mobile, code).status_code == 200


@pytest.mark.parametrize("wrong", [123456, None, ["123456"], {"$ne": ""}, True])
def test_code_is_a_text(sign_up, mobile, client, wrong):
    sign_up(mobile)
    response = client.post("/auth/verify-otp", json={"mobile": mobile, "otp": wrong})
    assert_problem(response, 422, "validation_error")


def test_wrong_expired_used_and_foreign_codes_are_answered_alike(app, sign_up, ask_for_code, verify, mobile_numbers):
    one, other, third = (next(mobile_numbers) for _ in range(3))
    for number in (one, other, third):
        sign_up(number)
    used = ask_for_code(one)
    verify(one, used)
    wrong = another(ask_for_code(other))
    reset = turn_into_reset_code(app, third, ask_for_code(third))
    never_asked = next(mobile_numbers)
    answers = [verify(one, used), verify(other, wrong), verify(third, reset), verify(never_asked, "123456")]
    told = [assert_problem(answer, 401, "otp_invalid") | {"request_id": ""} for answer in answers]
    assert all(body == told[0] for body in told)
    assert len({answer.headers["WWW-Authenticate"] for answer in answers}) == 1


def test_code_for_another_purpose_opens_no_session(app, sign_up, ask_for_code, verify, mobile):
    sign_up(mobile)
    code = turn_into_reset_code(app, mobile, ask_for_code(mobile))
    assert_problem(verify(mobile, code), 401, "otp_invalid")
    assert count(app, "SELECT count(*) FROM auth_sessions") == 0


def test_code_of_one_number_is_none_of_another(sign_up, ask_for_code, verify, mobile_numbers):
    ada, bob = next(mobile_numbers), next(mobile_numbers)
    sign_up(ada), sign_up(bob)
    code, bobs = ask_for_code(ada), ask_for_code(bob)
    if code != bobs:
        assert_problem(verify(bob, code), 401, "otp_invalid")
    assert verify(ada, code).status_code == 200


def test_right_code_of_a_number_that_never_signed_up_is_404(app, ask_for_code, verify, mobile):
    code = ask_for_code(mobile)
    assert_problem(verify(mobile, code), 404, "account_not_found")
    assert_problem(verify(mobile, code), 401, "otp_invalid")
    assert count(app, "SELECT count(*) FROM users") == 0


def test_verified_number_signs_up_once_and_nothing_of_the_account_is_told_or_changed(make_user, sign_up):
    ada = make_user(name="Ada")
    response = sign_up(ada.mobile, name="Mallory", password="a password of Mallory's")
    assert_problem(response, 409, "account_exists")
    assert ada.id not in response.text
    assert "Ada" not in response.text
    me = ada.get("/user/me").json
    assert (me["name"], me["has_password"]) == ("Ada", False)


def test_signup_that_was_never_verified_is_replaced(app, sign_up, ask_for_code, verify, mobile):
    first = sign_up(mobile, name="Mallory", password="a password of Mallory's").json
    second = sign_up(mobile, name="Ada").json
    assert second["name"] == "Ada"
    assert second["id"] != first["id"]
    user = verify(mobile, ask_for_code(mobile)).json["user"]
    assert user == second
    assert user["has_password"] is False
    assert count(app, "SELECT count(*) FROM users") == 1


def test_password_given_at_signup_takes_effect_with_the_first_code(sign_up, ask_for_code, verify, mobile):
    assert sign_up(mobile, password="correct horse battery").json["has_password"] is False
    assert verify(mobile, ask_for_code(mobile)).json["user"]["has_password"] is True


def test_logging_in_again_is_another_session_of_the_same_user(app, user, ask_for_code, verify):
    again = verify(user.mobile, ask_for_code(user.mobile)).json
    assert again["user"]["id"] == user.id
    assert again["access_token"] != user.access_token
    assert count(app, "SELECT count(*) FROM auth_sessions") == 2
    assert user.get("/user/me").status_code == 200


def test_twenty_parallel_verifications_open_one_session(app, sign_up, ask_for_code, mobile):
    sign_up(mobile)
    code = ask_for_code(mobile)
    answers = at_once(lambda _: app.test_client().post("/auth/verify-otp", json={"mobile": mobile, "otp": code}))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] == 1, statuses
    assert set(statuses) <= {200, 401, 429}, statuses
    assert count(app, "SELECT count(*) FROM auth_sessions") == 1


def test_parallel_signups_of_one_number_make_one_user(app, mobile):
    answers = at_once(
        lambda number: app.test_client().post("/auth/signup", json={"mobile": mobile, "name": f"N{number}"})
    )
    assert {answer.status_code for answer in answers} == {201}
    assert count(app, "SELECT count(*) FROM users") == 1
