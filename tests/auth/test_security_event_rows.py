"""The rows of security events: written in the transaction of what they record, and kept for 90 days."""

from datetime import timedelta

import pytest

from app.account.tasks import delete_ended
from app.core.clock import utc_now
from tests.auth.conftest import PASSWORD, sql, wrong
from tests.auth.test_sessions import let_pass, refresh
from tests.people import age_codes


def log_in_with_a_code(mover):
    return mover.verify(mover.send_otp().json["otp"])


def log_in_with_the_password(mover):
    return mover.login(PASSWORD)


def change_password(mover):
    change = {"current_password": PASSWORD, "new_password": "another good password"}
    return mover.post("/auth/change-password", token=mover.token, **change)


def reset_password(mover):
    return mover.reset(mover.forgot().json["otp"], "another good password")


def change_mobile(mover):
    return mover.change(mover.codes()[0], current_password=PASSWORD)


def end_a_session(mover):
    headers = {"Authorization": f"Bearer {mover.token}"}
    assert mover.login(PASSWORD).status_code == 200
    sessions = mover.client.get("/auth/sessions", headers=headers).json["items"]
    (other,) = [session["id"] for session in sessions if not session["current"]]
    return mover.client.delete(f"/auth/sessions/{other}", headers=headers)


def reuse_a_refresh_token(mover):
    tokens = mover.login(PASSWORD).json
    assert refresh(mover, tokens).status_code == 200
    let_pass(mover.app, 11)
    return refresh(mover, tokens)


def make_key(mover):
    return mover.post("/user/api-keys", token=mover.token, name="CI", scopes=["chat:read"])


def end_key(mover):
    made = make_key(mover).json
    headers = {"Authorization": f"Bearer {mover.token}"}
    return mover.client.delete(f"/user/api-keys/{made['id']}", headers=headers)


def lock_codes(mover):
    for _ in range(2):
        age_codes(mover.app, mover.mobile, seconds=61)
        otp = mover.send_otp().json["otp"]
        answers = [mover.verify(wrong(otp)) for _ in range(5)]
    return answers[-1]


@pytest.mark.parametrize(
    ("act", "status", "kind", "table"),
    [
        (log_in_with_a_code, 200, "login", "auth_sessions"),
        (log_in_with_the_password, 200, "login", "auth_sessions"),
        (change_password, 200, "password_changed", "users"),
        (change_password, 200, "password_changed", "auth_sessions"),
        (reset_password, 204, "password_changed", "users"),
        (change_mobile, 200, "mobile_changed", "users"),
        (change_mobile, 200, "mobile_changed", "auth_sessions"),
        (end_a_session, 204, "session_revoked", "auth_sessions"),
        (reuse_a_refresh_token, 401, "refresh_token_reused", "auth_sessions"),
        (make_key, 201, "api_key_created", "api_keys"),
        (end_key, 204, "api_key_revoked", "api_keys"),
        (lock_codes, 401, "codes_locked", "number_guards"),
    ],
)
def test_an_event_is_written_in_the_transaction_of_what_it_records(mover, act, status, kind, table):
    answer = act(mover)
    assert answer.status_code == status, answer.text
    [(event, written_by)] = sql(mover.app, "SELECT type, xmin::text FROM security_events ORDER BY id DESC LIMIT 1")
    assert event == kind
    # xmin is the transaction that wrote the current version of a row; the action's is the youngest.
    assert sql(mover.app, f"SELECT xmin::text FROM {table} ORDER BY age(xmin) LIMIT 1") == [(written_by,)]


def test_events_are_kept_for_ninety_days(app, mover):
    [(count,)] = sql(app, "SELECT count(*) FROM security_events")
    assert count == 2  # the first login, and the password
    with app.app_context():
        assert delete_ended(now=utc_now() + timedelta(days=89))["security events"] == 0
        assert delete_ended(now=utc_now() + timedelta(days=91))["security events"] == count
    assert sql(app, "SELECT count(*) FROM security_events") == [(0,)]
