"""Passwords: which are accepted, and how they are used, changed and reset."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest

from app.auth import passwords, service
from app.auth.models import NumberThrottle
from app.auth.otp import MAX_GUESSES
from app.auth.passwords import hash_password, hash_slots, hasher, password_matches, require_password
from app.auth.throttles import record_password_attempt, refund_password_attempt
from app.core.clock import utc_now
from app.core.db import db
from app.users.service import mobile_key
from tests.auth.conftest import wrong
from tests.people import age_codes, all_at_once
from tests.problems import assert_problem
from tests.web_process import ROOT

GOOD, BETTER = "a-good-long-password", "an-even-better-one"


@pytest.fixture
def member(make_member):
    return make_member(password=GOOD)


@pytest.mark.parametrize("password", ["short7!", "password", "Password1", "QWERTY123", "12345678", "x" * 129])
def test_unacceptable_password_is_422(make_member, password):
    who, tokens = make_member()
    answer = who.post("/auth/change-password", token=tokens["access_token"], new_password=password)
    assert "new_password" in assert_problem(answer, 422, "validation_error")["errors"]


@pytest.mark.parametrize("spelling", ["+49{}", "0049 {}", "49{}", "0{}", "0{} "])
def test_an_accounts_own_number_is_refused_as_its_password_in_any_spelling(make_member, spelling):
    who, tokens = make_member()
    own = spelling.format(f"{who.mobile[3:6]}-{who.mobile[6:]}")
    change = who.post("/auth/change-password", token=tokens["access_token"], new_password=own)
    otp = who.forgot().json["otp"]
    for answer in (change, who.reset(otp, own)):
        assert "new_password" in assert_problem(answer, 422, "validation_error")["errors"]
    assert who.reset(otp, own + "7").status_code == 204


@pytest.mark.parametrize("password", ["x7-_4-ab", "ß" * 128, "  spaces count  ", "пароль-длинный"])
def test_any_other_password_of_8_to_128_characters_is_accepted(make_member, password):
    who, _ = make_member(password=password)
    assert who.login(password).status_code == 200
    assert who.login(password.strip()[:-1]).status_code == 401


def test_hash_is_argon2id_with_the_recommended_cost():
    assert hash_password(GOOD).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_no_password_matches_a_missing_hash():
    """The hash to compare with is a constant, so the first logins of a process need not make it outside the slots."""
    assert not hasher.check_needs_rehash(passwords.NOBODYS_HASH)
    assert password_matches(None, GOOD) is False


WITHOUT_MEMORY = """
import resource, sys
from app.auth.passwords import hash_password, password_matches
from app.core.errors import ServiceUnavailable
known = hash_password("right")
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 3 * 2**20, -1))
for work in (lambda: password_matches(known, "right"), lambda: hash_password("right")):
    try:
        sys.exit(f"It says {work()}.")
    except ServiceUnavailable:
        pass
"""


def test_a_password_is_not_called_wrong_when_there_is_no_memory_to_hash_it():
    command = [sys.executable, "-c", WITHOUT_MEMORY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Password not hashed: ") == 2, done.stderr


def test_login_of_an_unknown_number_does_the_same_work(monkeypatch, visitor, member):
    verified = []
    real = type(hasher).verify
    monkeypatch.setattr(type(hasher), "verify", lambda self, *args: verified.append(1) or real(self, *args))
    assert_problem(visitor.login(GOOD), 401, "invalid_credentials")
    assert_problem(member[0].login(BETTER), 401, "invalid_credentials")
    assert len(verified) == 2


def test_eleventh_wrong_password_is_429_for_known_and_unknown_numbers(visitor, member):
    for who in (visitor, member[0]):
        assert [who.login(BETTER).status_code for _ in range(10)] == [401] * 10
        refused = who.login(GOOD)
        assert "Use a code" in assert_problem(refused, 429, "rate_limited")["detail"]
        assert 850 < int(refused.headers["Retry-After"]) <= 900


def test_the_quarter_of_an_hour_begins_with_the_first_wrong_password(app, member):
    who, _ = member
    assert who.login(GOOD).status_code == 200
    age_codes(app, who.mobile, seconds=890)
    for _ in range(10):
        who.login(BETTER)
    assert 850 < int(who.login(GOOD).headers["Retry-After"]) <= 900


def test_closed_login_opens_again_and_codes_work_meanwhile(app, member):
    who, _ = member
    for _ in range(11):
        who.login(BETTER)
    assert who.verify(who.send_otp().json["otp"]).status_code == 200
    age_codes(app, who.mobile, seconds=901)
    assert who.login(GOOD).status_code == 200


def test_parallel_wrong_passwords_get_no_more_than_the_limit(member):
    answers = all_at_once([lambda: member[0].login(BETTER)] * 16)
    assert [answer.status_code for answer in answers].count(401) == 10


def test_an_attempt_with_the_right_password_is_refunded(app, member):
    who, _ = member
    assert [who.login(GOOD).status_code for _ in range(12)] == [200] * 12
    with app.app_context():
        assert db.session.scalars(db.select(NumberThrottle.password_attempts)).all() == [0]


@contextmanager
def hashing_by_others() -> Iterator[int]:
    """Hold every hash slot, as a flood does. Yields how many there are."""
    with ExitStack() as held:
        count = 0
        while hash_slots.acquire(blocking=False):
            held.callback(hash_slots.release)
            count += 1
        yield count


def test_a_process_computes_four_hashes_at_once():
    with hashing_by_others() as count:
        assert count == 4


@pytest.fixture
def short_wait(monkeypatch):
    """Wait only briefly for a slot that nobody gives back."""
    monkeypatch.setattr(passwords, "HASH_SLOT_SECONDS", 0.2)


def test_login_without_a_hash_slot_is_refunded(app, member, short_wait, caplog):
    who, _ = member
    with hashing_by_others():
        for refused in all_at_once([lambda: who.login(GOOD)] * 10, retry=False):
            assert_problem(refused, 503, "service_unavailable")
    assert "Password not hashed: no slot became free" in caplog.text
    with app.app_context():
        assert db.session.scalars(db.select(NumberThrottle.password_attempts)).all() == [0]
    assert [who.login(BETTER).status_code for _ in range(10)] == [401] * 10
    assert who.login(GOOD).status_code == 429, "guesses cost as much as ever"


def test_an_attempt_that_fails_with_a_defect_is_refunded(app, member, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(type(hasher), "verify", fail)
    assert_problem(member[0].login(GOOD), 500, "internal_error")
    with app.app_context():
        assert db.session.scalars(db.select(NumberThrottle.password_attempts)).all() == [0]


def test_change_without_a_hash_slot_is_refunded(app, member, short_wait):
    who, tokens = member
    change = {"token": tokens["access_token"], "new_password": BETTER, "current_password": GOOD}
    with hashing_by_others():
        assert_problem(who.post("/auth/change-password", **change), 503, "service_unavailable")
    with app.app_context():
        assert db.session.scalars(db.select(NumberThrottle.password_attempts)).all() == [0]
    assert who.post("/auth/change-password", **change).status_code == 200


def test_reset_without_a_hash_slot_costs_no_guess_and_leaves_the_code(app, member, short_wait):
    who, _ = member
    otp = who.forgot().json["otp"]
    with hashing_by_others():
        for _ in range(MAX_GUESSES + 1):
            assert_problem(who.reset(otp, BETTER), 503, "service_unavailable")
        assert_problem(who.reset(wrong(otp), BETTER), 503, "service_unavailable")
    with app.app_context():
        assert db.session.scalars(db.select(NumberThrottle.wrong_codes)).all() == [0]
    assert who.reset(otp, BETTER).status_code == 204


@pytest.mark.parametrize("set_password", [None, GOOD])
def test_no_connection_is_held_while_a_password_waits_for_a_hash_slot(app, make_member, set_password, monkeypatch):
    who, tokens = make_member(password=set_password)
    with app.app_context():
        pool, held = db.engine.pool, []
    real = passwords.with_hash_slot
    monkeypatch.setattr(passwords, "with_hash_slot", lambda *args: held.append(pool.checkedout()) or real(*args))
    change = {"token": tokens["access_token"], "new_password": BETTER, "current_password": set_password}
    assert who.post("/auth/change-password", **change).status_code == 200
    assert who.login(BETTER).status_code == 200
    assert held == [0] * (3 if set_password else 2)


def test_attempt_of_an_earlier_window_is_not_refunded_to_a_later_one(app, visitor):
    began = utc_now()
    with app.app_context():
        key = mobile_key(visitor.mobile)
        earlier = record_password_attempt(key, began)
        later = record_password_attempt(key, began + timedelta(minutes=16))
        refund_password_attempt(key, earlier)
        assert db.session.scalar(db.select(NumberThrottle.password_attempts)) == 1
        refund_password_attempt(key, later)
        assert db.session.scalar(db.select(NumberThrottle.password_attempts)) == 0


def test_change_needs_the_current_password(member):
    who, tokens = member
    token = tokens["access_token"]
    body = assert_problem(who.post("/auth/change-password", token=token, new_password=BETTER), 422, "validation_error")
    assert "current_password" in body["errors"]
    wrong = who.post("/auth/change-password", token=token, new_password=BETTER, current_password="not-this-one")
    assert_problem(wrong, 403, "wrong_password")
    assert who.login(GOOD).status_code == 200


def test_guesses_at_the_current_password_are_limited(member):
    who, tokens = member
    guess = {"token": tokens["access_token"], "new_password": BETTER, "current_password": "not-this-one"}
    answers = [who.post("/auth/change-password", **guess).status_code for _ in range(11)]
    assert answers == [403] * 10 + [429]


def test_change_revokes_every_earlier_token_at_once(member):
    who, tokens = member
    other = who.login(GOOD).json
    changed = who.post(
        "/auth/change-password", token=tokens["access_token"], new_password=BETTER, current_password=GOOD
    )
    assert changed.status_code == 200
    for earlier in (tokens, other):
        assert_problem(who.me(earlier["access_token"]), 401, "token_revoked")
        assert_problem(who.post("/auth/refresh", token=earlier["refresh_token"]), 401, "token_revoked")
    assert who.me(changed.json["access_token"]).json["has_password"] is True
    assert who.login(GOOD).status_code == 401
    assert who.login(BETTER).status_code == 200


def test_first_password_needs_no_current_one_and_ends_every_earlier_session(make_member):
    who, tokens = make_member()
    other = who.verify(who.send_otp().json["otp"]).json
    assert who.post("/auth/change-password", token=tokens["access_token"], new_password=GOOD).status_code == 200
    assert who.login(GOOD).status_code == 200
    for earlier in (tokens, other):
        assert_problem(who.me(earlier["access_token"]), 401, "token_revoked")


def test_a_session_that_ends_while_its_password_is_hashed_does_not_set_it(make_member, monkeypatch):
    """The session is a thief's, and its request may wait seconds for a hash slot."""
    owner, thief = make_member()
    own = owner.verify(owner.send_otp().json["otp"]).json["access_token"]

    def end_it_first(password):
        headers = {"Authorization": f"Bearer {own}"}
        sessions = owner.client.get("/auth/sessions", headers=headers).json["items"]
        (other,) = [session["id"] for session in sessions if not session["current"]]
        assert owner.client.delete(f"/auth/sessions/{other}", headers=headers).status_code == 204
        return hash_password(password)

    monkeypatch.setattr(passwords, "hash_password", end_it_first)
    refused = owner.post("/auth/change-password", token=thief["access_token"], new_password=GOOD)
    assert_problem(refused, 401, "token_revoked")
    assert owner.me(own).json["has_password"] is False


def test_a_password_that_changes_while_it_is_compared_opens_no_session(member, monkeypatch):
    who, tokens = member

    def change_it_after(*args, **kwargs):
        require_password(*args, **kwargs)
        change = {"token": tokens["access_token"], "current_password": GOOD, "new_password": BETTER}
        assert who.post("/auth/change-password", **change).status_code == 200

    monkeypatch.setattr(service, "require_password", change_it_after)
    assert_problem(who.login(GOOD), 401, "invalid_credentials")


def test_one_of_parallel_changes_wins(member):
    who, tokens = member
    change = {"token": tokens["access_token"], "current_password": GOOD}
    answers = all_at_once(
        [lambda n=n: who.post("/auth/change-password", new_password=f"number-{n}-of-six", **change) for n in range(6)]
    )
    won = [n for n, answer in enumerate(answers) if answer.status_code == 200]
    assert len(won) == 1
    assert {answer.status_code for answer in answers} <= {200, 401, 403}  # 403: it began after another one had won
    assert who.login(f"number-{won[0]}-of-six").status_code == 200


def test_reset_sets_the_password_and_revokes_every_token(member):
    who, tokens = member
    otp = who.forgot().json["otp"]
    answer = who.reset(otp, BETTER)
    assert (answer.status_code, answer.data) == (204, b"")
    assert_problem(who.me(tokens["access_token"]), 401, "token_revoked")
    assert who.login(GOOD).status_code == 401
    assert who.login(BETTER).status_code == 200
    assert_problem(who.reset(otp, GOOD), 401, "otp_invalid")


def test_unacceptable_password_does_not_use_up_the_code(member):
    who, _ = member
    otp = who.forgot().json["otp"]
    assert_problem(who.reset(otp, "password"), 422, "validation_error")
    assert who.reset(otp, BETTER).status_code == 204


def test_reset_for_a_number_that_never_signed_up_is_404(visitor):
    assert_problem(visitor.reset(visitor.forgot().json["otp"], BETTER), 404, "account_not_found")
