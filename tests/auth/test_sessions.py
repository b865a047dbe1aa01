"""Sessions: refresh tokens that rotate, and logins that the user can list and end."""

from datetime import timedelta
from uuid import UUID

import jwt
import pytest
from flask_jwt_extended import create_refresh_token
from sqlalchemy import event, text

from app.account import tasks
from app.account.tasks import delete_ended
from app.auth import sessions
from app.auth.sessions import is_session_active
from app.core.clock import utc_now
from app.core.db import db
from app.core.http import Client
from tests.auth.conftest import PASSWORD, Visitor
from tests.people import all_at_once
from tests.problems import assert_problem


@pytest.fixture
def member(make_member):
    return make_member()


def refresh(visitor, tokens):
    return visitor.post("/auth/refresh", token=tokens["refresh_token"])


def let_pass(app, seconds):
    """Let time pass since the use of every refresh token."""
    with app.app_context():
        db.session.execute(text(f"UPDATE refresh_rotations SET used_at = used_at - interval '{seconds} s'"))
        db.session.commit()


def test_refresh_gives_new_tokens_of_the_same_session(member):
    who, tokens = member
    fresh = refresh(who, tokens)
    assert fresh.status_code == 200
    assert fresh.json["refresh_token"] != tokens["refresh_token"]
    assert fresh.json["user"] == tokens["user"]
    assert who.me(fresh.json["access_token"]).status_code == 200
    assert who.me(tokens["access_token"]).status_code == 200


def test_refresh_token_works_again_within_ten_seconds_for_parallel_clients(app, member):
    who, tokens = member
    first = refresh(who, tokens).json
    let_pass(app, 9)
    second = refresh(who, tokens)
    assert second.status_code == 200
    assert rotation(second.json) == rotation(first), "both hold the token that is current"
    assert refresh(who, second.json).status_code == 200


def test_parallel_clients_may_reach_machines_whose_clocks_differ(app, member):
    _, tokens = member
    claims = jwt.decode(tokens["refresh_token"], options={"verify_signature": False})
    ids = [UUID(claims[name]) for name in ("sub", "sid", "rid")]
    with app.app_context():
        for ahead in (0, 29):
            sessions.refresh(*ids, Client(None, None), now=utc_now() + timedelta(seconds=ahead))


def rotation(tokens):
    return jwt.decode(tokens["refresh_token"], options={"verify_signature": False})["rid"]


def test_refresh_token_used_again_later_ends_its_whole_session(app, member, caplog):
    caplog.set_level("INFO")
    who, tokens = member
    fresh = refresh(who, tokens).json
    let_pass(app, 11)
    assert_problem(refresh(who, tokens), 401, "token_revoked")
    assert "refresh_token_reused" in caplog.text
    assert_problem(refresh(who, fresh), 401, "token_revoked")
    for old in (tokens, fresh):
        assert_problem(who.me(old["access_token"]), 401, "token_revoked")


def test_refresh_token_before_last_still_works_within_its_ten_seconds(app, make_member):
    make_member()  # somebody else with a current token
    who, tokens = make_member()
    second = refresh(who, tokens).json
    third = refresh(who, second).json
    late = refresh(who, tokens)
    assert late.status_code == 200
    assert rotation(late.json) == rotation(third)


def test_stolen_session_leaves_the_other_sessions_alone(app, member):
    who, tokens = member
    other = who.verify(who.send_otp().json["otp"]).json
    refresh(who, tokens)
    let_pass(app, 11)
    refresh(who, tokens)
    assert who.me(other["access_token"]).status_code == 200
    assert refresh(who, other).status_code == 200


def test_parallel_refreshes_end_with_one_current_token(member):
    who, tokens = member
    answers = all_at_once([lambda: refresh(who, tokens)] * 8)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({rotation(answer.json) for answer in answers}) == 1


def test_access_token_cannot_refresh_and_refresh_token_opens_no_route(member):
    who, tokens = member
    assert_problem(who.post("/auth/refresh", token=tokens["access_token"]), 401, "token_invalid")
    assert_problem(who.me(tokens["refresh_token"]), 401, "token_invalid")


def test_refresh_token_without_its_row_is_refused(app, member):
    who, tokens = member
    claims = jwt.decode(tokens["refresh_token"], options={"verify_signature": False})
    with app.app_context():
        odd = create_refresh_token(claims["sub"], additional_claims={"sid": claims["sid"]})
        foreign = create_refresh_token(claims["sub"], additional_claims={"sid": claims["sid"], "rid": claims["sid"]})
    assert_problem(who.post("/auth/refresh", token=odd), 401, "token_invalid")
    assert_problem(who.post("/auth/refresh", token=foreign), 401, "token_revoked")


def test_refresh_token_of_another_users_session_is_refused(app, make_member):
    (who, tokens), (_, others) = make_member(), make_member()
    mine, theirs = (jwt.decode(t["refresh_token"], options={"verify_signature": False}) for t in (tokens, others))
    with app.app_context():
        crossed = create_refresh_token(mine["sub"], additional_claims={"sid": theirs["sid"], "rid": theirs["rid"]})
    assert_problem(who.post("/auth/refresh", token=crossed), 401, "token_revoked")


def test_logout_ends_only_this_session(member):
    who, tokens = member
    other = who.verify(who.send_otp().json["otp"]).json
    answer = who.post("/auth/logout", token=tokens["access_token"])
    assert (answer.status_code, answer.data, answer.content_type) == (204, b"", None)
    assert_problem(who.me(tokens["access_token"]), 401, "token_revoked")
    assert_problem(refresh(who, tokens), 401, "token_revoked")
    assert_problem(who.post("/auth/logout", token=tokens["access_token"]), 401, "token_revoked")
    assert who.me(other["access_token"]).status_code == 200


def test_sessions_show_where_from_and_which_is_the_current_one(app, member):
    who, tokens = member
    away = Visitor(app, who.mobile, ip="2001:db8::7")
    tokens = away.verify(away.send_otp().json["otp"]).json
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    items = who.client.get("/auth/sessions", headers=headers).json["items"]
    assert [(item["ip"], item["current"]) for item in items] == [("2001:db8::7", True), ("203.0.113.7", False)]
    assert set(items[0]) == {"id", "current", "created_at", "last_used_at", "ip", "user_agent"}
    ended = who.client.delete(f"/auth/sessions/{items[1]['id']}", headers=headers)
    assert (ended.status_code, ended.data) == (204, b"")
    assert len(who.client.get("/auth/sessions", headers=headers).json["items"]) == 1
    assert_problem(who.client.delete(f"/auth/sessions/{items[1]['id']}", headers=headers), 404, "not_found")


@pytest.mark.parametrize(
    ("forwarded", "ip"),
    [
        ("198.51.100.4:5123", "198.51.100.4"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%" + "z" * 100, "fe80::1"),
        ("0" * 100, None),
        ("unknown", None),
    ],
)
def test_session_shows_only_the_address_however_a_proxy_writes_it(make_app, make_member, forwarded, ip):
    who, _ = make_member()
    behind = make_app(trusted_proxies=1).test_client()
    otp = who.send_otp().json["otp"]
    body, headers = {"mobile": who.mobile, "otp": otp}, {"X-Forwarded-For": forwarded}
    tokens = behind.post("/auth/verify-otp", json=body, headers=headers)
    assert tokens.status_code == 200, tokens.text
    listed = behind.get("/auth/sessions", headers={"Authorization": f"Bearer {tokens.json['access_token']}"})
    assert listed.json["items"][0]["ip"] == ip


def test_somebody_elses_session_is_404_and_stays_active(make_member):
    (who, tokens), (other, theirs) = make_member(), make_member()
    session_id = jwt.decode(theirs["access_token"], options={"verify_signature": False})["sid"]
    answer = who.client.delete(
        f"/auth/sessions/{session_id}", headers={"Authorization": f"Bearer {tokens['access_token']}"}
    )
    assert_problem(answer, 404, "not_found")
    assert other.me(theirs["access_token"]).status_code == 200


def test_valid_token_costs_one_look_up(app, member):
    who, tokens = member
    statements = []
    with app.app_context():
        engine = db.engine
    listener = lambda *args: statements.append(args[2])  # noqa: E731
    event.listen(engine, "before_cursor_execute", listener)
    try:
        who.client.get("/user/usage", headers={"Authorization": f"Bearer {tokens['access_token']}"})
    finally:
        event.remove(engine, "before_cursor_execute", listener)
    assert sum("auth_sessions" in statement for statement in statements) == 1


def test_use_is_noted_every_five_minutes(app, member):
    _, tokens = member
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    with app.app_context():
        last_used = text("SELECT last_used_at FROM auth_sessions")
        began = db.session.scalar(last_used)
        for minutes, noted in ((4, 0), (6, 6), (10, 6), (12, 12)):
            assert is_session_active(claims["sid"], claims["sub"], began + timedelta(minutes=minutes))
            assert db.session.scalar(last_used) == began + timedelta(minutes=noted)


def test_session_unused_for_too_long_is_not_listed(app, member):
    who, tokens = member
    with app.app_context():
        db.session.execute(
            text(
                "INSERT INTO auth_sessions (id, user_id, created_at, last_used_at) "
                "SELECT gen_random_uuid(), user_id, :then, :then FROM auth_sessions"
            ),
            {"then": utc_now() - timedelta(days=31)},
        )
        db.session.commit()
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert len(who.client.get("/auth/sessions", headers=headers).json["items"]) == 1


def test_a_login_beyond_the_limit_ends_the_least_recently_used_session(app, make_member, monkeypatch):
    """Without a limit, whoever knows the password could open more sessions than can be ended."""
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    who, tokens = make_member(password=PASSWORD)
    opened = [tokens] + [who.login(PASSWORD).json for _ in range(2)]
    assert refresh(who, opened[0]).status_code == 200  # the session that was opened first is now the last used
    newest = who.login(PASSWORD).json
    statuses = [who.me(one["access_token"]).status_code for one in [*opened, newest]]
    assert statuses == [200, 401, 200, 200]


def test_a_session_that_has_ended_does_not_count_against_the_limit(make_member, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    who, tokens = make_member(password=PASSWORD)
    assert who.post("/auth/logout", token=who.login(PASSWORD).json["access_token"]).status_code == 204
    assert who.login(PASSWORD).status_code == 200
    assert who.me(tokens["access_token"]).status_code == 200


def test_sessions_with_thousands_of_refresh_tokens_are_swept_in_batches(app, member, monkeypatch):
    monkeypatch.setattr(tasks, "TOKEN_BATCH", 2)
    who, tokens = member
    for _ in range(5):
        tokens = refresh(who, tokens).json
    assert who.post("/auth/logout", token=tokens["access_token"]).status_code == 204
    deleted = []

    def note(_connection, cursor, statement, *_):
        if statement.startswith("DELETE FROM refresh_rotations"):
            deleted.append(cursor.rowcount)

    with app.app_context():
        event.listen(db.engine, "after_cursor_execute", note)
        try:
            swept = [delete_ended(now=utc_now() + timedelta(hours=25)) for _ in range(2)]
        finally:
            event.remove(db.engine, "after_cursor_execute", note)
    assert [one["refresh tokens of revoked sessions"] for one in swept] == [6, 0]
    assert [one["revoked sessions"] for one in swept] == [0, 1], "once its tokens are gone"
    assert max(deleted) == 2


def test_an_ended_session_is_swept_after_a_day(app, member):
    who, tokens = member
    assert who.post("/auth/logout", token=tokens["access_token"]).status_code == 204
    with app.app_context():
        assert delete_ended(now=utc_now() + timedelta(hours=23))["revoked sessions"] == 0
        assert delete_ended(now=utc_now() + timedelta(hours=25))["revoked sessions"] == 1


def test_one_sweep_deletes_more_than_a_batch(app, member, monkeypatch):
    monkeypatch.setattr(tasks, "ENDED_BATCH", 2)
    who, tokens = member
    for _ in range(5):
        tokens = refresh(who, tokens).json
    let_pass(app, 31 * 86_400)
    with app.app_context():
        assert delete_ended(now=utc_now())["refresh tokens"] == 5


def test_a_used_refresh_token_is_swept_once_it_has_expired_and_its_session_goes_on(app, member):
    who, tokens = member
    fresh = refresh(who, tokens).json
    for days, swept in ((29, 0), (2, 1)):
        let_pass(app, days * 86_400)
        with app.app_context():
            assert delete_ended(now=utc_now())["refresh tokens"] == swept
    assert refresh(who, fresh).status_code == 200
