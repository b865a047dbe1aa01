"""One-time codes: guesses, repeated requests, and requests at the same time."""

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.account.tasks import delete_ended
from app.auth.errors import OtpInvalid
from app.auth.models import AuthSession, NumberThrottle, OneTimeCode, Purpose
from app.auth.service import send_code, verify_login_code
from app.auth.throttles import MAX_WRONG_CODES
from app.core.clock import utc_now
from app.core.db import db
from app.core.http import Client
from app.users.models import User
from tests.auth.conftest import wrong
from tests.people import age_codes, all_at_once
from tests.problems import assert_problem


def test_code_logs_in_once(visitor):
    visitor.sign_up()
    otp = visitor.send_otp().json["otp"]
    assert visitor.verify(otp).status_code == 200
    assert_problem(visitor.verify(otp), 401, "otp_invalid")


def test_code_works_once_on_a_machine_whose_clock_is_behind_the_one_that_replaced_the_code_before(app, visitor):
    """To that machine the code before has not ended yet."""
    visitor.sign_up()
    now, client = utc_now(), Client("203.0.113.7", None)
    with app.app_context():
        send_code(visitor.mobile, Purpose.LOGIN, now=now)
        otp = str(send_code(visitor.mobile, Purpose.LOGIN, now=now + timedelta(seconds=61)).otp)
        assert verify_login_code(visitor.mobile, otp, client, now=now + timedelta(seconds=60))
        with pytest.raises(OtpInvalid):
            verify_login_code(visitor.mobile, otp, client, now=now + timedelta(seconds=60))


def test_right_code_of_a_number_that_never_signed_up_is_404_and_used_up(app, visitor):
    otp = visitor.send_otp().json["otp"]
    assert_problem(visitor.verify(otp), 404, "account_not_found")
    assert_problem(visitor.verify(otp), 401, "otp_invalid")
    with app.app_context():
        assert db.session.scalars(select(User)).all() == []


def test_fifth_wrong_guess_burns_the_code(visitor):
    visitor.sign_up()
    otp = visitor.send_otp().json["otp"]
    for _ in range(5):
        assert_problem(visitor.verify(wrong(otp)), 401, "otp_invalid")
    assert_problem(visitor.verify(otp), 401, "otp_invalid")


def test_fifth_guess_may_still_be_right(visitor):
    visitor.sign_up()
    otp = visitor.send_otp().json["otp"]
    for _ in range(4):
        visitor.verify(wrong(otp))
    assert visitor.verify(otp).status_code == 200


def test_new_code_does_not_forgive_wrong_guesses(app, visitor):
    visitor.sign_up()
    for _ in range(2):
        otp = visitor.send_otp().json["otp"]
        for _ in range(5):
            assert_problem(visitor.verify(wrong(otp)), 401, "otp_invalid")
        age_codes(app, visitor.mobile, seconds=61)
    for refused in (visitor.verify(otp), visitor.send_otp(), visitor.forgot(), visitor.reset(otp, "long-enough-7")):
        assert_problem(refused, 429, "otp_locked")
        assert 3_400 < int(refused.headers["Retry-After"]) <= 3_600


def test_the_hour_of_a_lock_begins_with_the_first_wrong_guess(app, visitor):
    visitor.send_otp()
    age_codes(app, visitor.mobile, seconds=3_500)
    visitor.verify("no")
    age_codes(app, visitor.mobile, seconds=1_000)
    for _ in range(9):
        visitor.verify("no")
    refused = visitor.send_otp()
    assert_problem(refused, 429, "otp_locked")
    assert 2_400 < int(refused.headers["Retry-After"]) <= 2_600


def test_lock_ends_with_the_hour(app, visitor):
    visitor.sign_up()
    otp = visitor.send_otp().json["otp"]
    for _ in range(10):
        visitor.verify(wrong(otp))
    assert_problem(visitor.send_otp(), 429, "otp_locked")
    age_codes(app, visitor.mobile, seconds=3_601)
    assert visitor.verify(visitor.send_otp().json["otp"]).status_code == 200


def test_wrong_guesses_count_without_a_code_too(visitor):
    answers = [visitor.verify("123456").status_code for _ in range(11)]
    assert answers == [401] * 10 + [429]


def test_parallel_guesses_get_no_more_than_the_limit(app, visitor):
    visitor.sign_up()
    otp = visitor.send_otp().json["otp"]
    guesses = [lambda n=n: visitor.verify(f"{(int(otp) + 1 + n) % 1_000_000:06}") for n in range(20)]
    assert Counter(answer.status_code for answer in all_at_once(guesses)) == {401: 10, 429: 10}
    with app.app_context():
        assert db.session.scalar(select(OneTimeCode.guesses)) == 5


def test_twenty_parallel_verifications_give_one_session(app, visitor):
    visitor.sign_up()
    otp = visitor.send_otp().json["otp"]
    answers = all_at_once([lambda: visitor.verify(otp)] * 20)
    assert Counter(answer.status_code for answer in answers) == {200: 1, 401: 19}
    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(AuthSession)) == 1
    assert visitor.verify("000000" if otp != "000000" else "1").status_code == 401, "nobody was locked out by it"


def test_second_code_within_a_minute_is_refused(visitor):
    first = visitor.send_otp()
    assert first.json["resend_in"] == 60
    refused = visitor.send_otp()
    assert_problem(refused, 429, "otp_cooldown")
    assert 55 <= int(refused.headers["Retry-After"]) <= 60


def test_parallel_requests_send_one_code(visitor):
    answers = all_at_once([visitor.send_otp] * 8)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 429: 7}


def test_each_purpose_has_its_own_cooldown(visitor):
    assert visitor.send_otp().status_code == 202
    assert visitor.forgot().status_code == 202
    assert_problem(visitor.forgot(), 429, "otp_cooldown")


def test_cooldown_holds_although_abuse_limits_are_lifted(app, visitor):
    assert app.extensions["settings"].rate_limit_per_minute == 0
    visitor.send_otp()
    assert visitor.send_otp().status_code == 429


def test_number_gets_ten_codes_an_hour(app, visitor):
    for _ in range(10):
        assert visitor.send_otp().status_code == 202
        age_codes(app, visitor.mobile, seconds=61)
    refused = visitor.send_otp()
    assert_problem(refused, 429, "otp_cooldown")
    assert 2_900 < int(refused.headers["Retry-After"]) <= 3_600 - 10 * 61


def test_codes_of_the_hour_are_counted_for_each_purpose(app, visitor):
    for _ in range(10):
        assert visitor.send_otp().status_code == 202
        age_codes(app, visitor.mobile, seconds=61)
    for _ in range(10):
        assert visitor.forgot().status_code == 202
        age_codes(app, visitor.mobile, seconds=61)
    assert_problem(visitor.send_otp(), 429, "otp_cooldown")
    assert_problem(visitor.forgot(), 429, "otp_cooldown")


def test_new_code_ends_the_previous_one(app, visitor):
    visitor.sign_up()
    old = visitor.send_otp().json["otp"]
    age_codes(app, visitor.mobile, seconds=61)
    new = visitor.send_otp().json["otp"]
    if old != new:
        assert_problem(visitor.verify(old), 401, "otp_invalid")
    assert visitor.verify(new).status_code == 200


def test_used_code_does_not_revive_an_older_one(app, visitor):
    visitor.sign_up()
    old = visitor.send_otp().json["otp"]
    age_codes(app, visitor.mobile, seconds=61)
    visitor.verify(visitor.send_otp().json["otp"])
    assert_problem(visitor.verify(old), 401, "otp_invalid")


def test_code_expires_after_five_minutes(app, visitor):
    visitor.sign_up()
    sent = visitor.send_otp().json
    assert sent["expires_in"] == 300
    age_codes(app, visitor.mobile, seconds=300)
    assert_problem(visitor.verify(sent["otp"]), 401, "otp_invalid")


def test_code_works_until_it_expires(app, visitor):
    visitor.sign_up()
    otp = visitor.send_otp().json["otp"]
    age_codes(app, visitor.mobile, seconds=285)
    assert visitor.verify(otp).status_code == 200


def test_code_works_only_for_its_purpose(app, make_member):
    visitor, _ = make_member()
    login, reset = visitor.send_otp().json["otp"], visitor.forgot().json["otp"]
    if login != reset:
        assert_problem(visitor.reset(login, "long-enough-7"), 401, "otp_invalid")
        assert_problem(visitor.verify(reset), 401, "otp_invalid")
    assert visitor.reset(reset, "long-enough-7").status_code == 204
    assert visitor.verify(login).status_code == 200


def test_wrong_guesses_burn_only_the_code_of_their_purpose(make_member):
    visitor, _ = make_member()
    login, reset = visitor.send_otp().json["otp"], visitor.forgot().json["otp"]
    for _ in range(5):
        assert_problem(visitor.verify(wrong(login)), 401, "otp_invalid")
    assert_problem(visitor.verify(login), 401, "otp_invalid")
    assert visitor.reset(reset, "long-enough-7").status_code == 204


def test_code_of_one_number_does_not_work_for_another(make_member):
    one, _ = make_member()
    other, _ = make_member()
    otp = one.send_otp().json["otp"]
    other.send_otp()
    assert other.verify(otp).status_code == 401
    assert one.verify(otp).status_code == 200


def test_known_and_unknown_numbers_get_the_same_answers_and_statements(visitor, make_member, statements):
    member, _ = make_member(password="a-good-long-one")

    def observe(call, who):
        """Return all that the caller and the database see, except what differs between any two requests."""
        statements.clear()
        answer = call(who)
        headers = {name: value for name, value in answer.headers if name not in {"X-Request-ID", "Retry-After"}}
        body = {name: value for name, value in answer.json.items() if name not in {"otp", "mobile", "request_id"}}
        return answer.status_code, headers, "Retry-After" in answer.headers, body, list(statements)

    for call in (
        lambda who: who.send_otp(),
        lambda who: who.verify("no"),
        lambda who: who.forgot(),
        lambda who: who.reset("no", "long-enough-7"),
        lambda who: who.login("not-the-right-one"),
        lambda who: who.send_otp(),
    ):
        known, unknown = observe(call, member), observe(call, visitor)
        assert known == unknown
        assert known[-1], "the database was asked"


def test_the_guess_that_locks_a_known_number_takes_one_statement_more_than_others(visitor, make_member, statements):
    member, _ = make_member()

    def guess(who):
        statements.clear()
        assert_problem(who.verify("no"), 401, "otp_invalid")
        return list(statements)

    of_known, of_unknown = ([guess(who) for _ in range(MAX_WRONG_CODES)] for who in (member, visitor))
    assert of_known[-2:] == of_unknown[-2:], "the ninth and the tenth"
    more = [one for one in of_known[-1] if one not in of_known[-2]]
    assert [one.split(" (")[0] for one in more] == ["INSERT INTO security_events"]


def test_ended_rows_are_swept_and_those_that_limits_count_stay(app, visitor, make_member):
    make_member()
    visitor.send_otp()
    visitor.verify("wrong")
    with app.app_context():
        assert delete_ended(now=utc_now() + timedelta(minutes=30)) == {
            "codes": 1,  # the member's, two hours old
            "throttles": 1,
            "refresh tokens of revoked sessions": 0,
            "revoked sessions": 0,
            "refresh tokens of expired sessions": 0,
            "expired sessions": 0,
            "revoked API keys": 0,
            "expired API keys": 0,
            "refresh tokens": 0,
            "security events": 0,
            "signups": 0,
            "idempotency keys": 0,
            "Stripe events": 0,
        }
        delete_ended(now=utc_now() + timedelta(minutes=66))
        assert db.session.scalar(select(func.count()).select_from(OneTimeCode)) == 0
        assert db.session.scalar(select(func.count()).select_from(NumberThrottle)) == 0
        assert delete_ended(now=utc_now() + timedelta(days=31))["expired sessions"] == 1
