"""API keys: a user makes, lists and ends them; a program uses them within their scopes."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from app.account.tasks import delete_ended
from app.auth import sessions
from app.auth.sessions import hash_key
from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from app.users.service import lock_user_by_mobile
from tests.architecture.test_ownership import METHODS, address, described_bodies, owned_by
from tests.auth.conftest import BOTH, Program, make_key, sql
from tests.conftest import purge_all
from tests.people import all_at_once
from tests.problems import assert_problem

# Every route that a key may use, by scope.
READS = {
    "/chatroom",
    "/chatroom/<id:chatroom_id>",
    "/chatroom/<id:chatroom_id>/messages",
    "/chatroom/<id:chatroom_id>/messages/<id:message_id>",
    "/chatroom/<id:chatroom_id>/messages/<id:message_id>/stream",
    "/search",
    "/models",
    "/user/usage",
}
WRITES = {
    ("POST", "/chatroom"),
    ("PATCH", "/chatroom/<id:chatroom_id>"),
    ("DELETE", "/chatroom/<id:chatroom_id>"),
    ("POST", "/chatroom/<id:chatroom_id>/message"),
    ("POST", "/chatroom/<id:chatroom_id>/messages/<id:message_id>/edit"),
    ("POST", "/chatroom/<id:chatroom_id>/messages/<id:message_id>/cancel"),
    ("POST", "/chatroom/<id:chatroom_id>/messages/<id:message_id>/retry"),
}
OF_SCOPE = {"chat:read": {("GET", path) for path in READS}, "chat:write": WRITES}
PASSWORD = "correct horse battery"


def test_a_key_is_shown_once(user):
    made = make_key(user, name="  Nightly job ", expires_in_days=30)
    key = made.pop("key")
    assert re.fullmatch(r"gbk_[\w-]{43}", key)
    assert key.startswith(made["prefix"])
    assert len(made["prefix"]) == 12
    assert (made["name"], made["scopes"], made["last_used_at"]) == ("Nightly job", BOTH, None)
    assert made["created_at"] < made["expires_at"]
    listed = user.get("/user/api-keys")
    assert listed.json == {"items": [made]}
    assert key not in listed.text


def test_neither_the_database_nor_redis_stores_the_key(app, user, redis_db):
    key = make_key(user)["key"]
    assert Program(app, key).get("/models").status_code == 200
    secret = key[12:]
    with app.app_context():
        for table in db.metadata.sorted_tables:
            for row in db.session.scalars(text(f"SELECT t::text FROM {table.name} t")):
                assert secret not in row
    for name in redis_db.scan_iter("*"):
        assert secret.encode() not in name
        if redis_db.type(name) == b"string":
            assert secret.encode() not in redis_db.get(name)


def test_a_program_can_chat_with_a_key(app, user, program):
    room = program.call("POST", "/chatroom", json={"title": "By a program"})
    assert room.status_code == 201
    path = f"/chatroom/{room.json['id']}"
    sent = program.call("POST", f"{path}/message", json={"text": "Hello"})
    assert sent.status_code == 202
    assert program.get("/user/usage").json["used"] == 1  # of its user's day
    assert user.get("/user/usage").json["used"] == 1
    assert [room["title"] for room in user.get("/chatroom").json["items"]] == ["By a program"]


@pytest.mark.parametrize("scopes", [["chat:read"], ["chat:write"], BOTH])
def test_a_key_reaches_the_routes_of_its_scopes_and_no_other(app, user, scopes):
    program = Program(app, make_key(user, scopes=scopes)["key"])
    values, bodies = owned_by(user), described_bodies(app)
    allowed = set().union(*(OF_SCOPE[scope] for scope in scopes))
    walked = set()
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        for method in sorted((rule.methods or set()) & METHODS):
            auth = getattr(view, "_apidoc", {}).get("contract", {}).get("auth", "public")
            if auth == "public":
                continue
            path = address(app, rule, values) if rule.arguments else rule.rule
            body = bodies.get((method, rule.rule), {})
            answer = program.call(method, path, json=body) if method != "GET" else program.get(path)
            if (method, rule.rule) in allowed:
                assert answer.status_code not in {401, 403}, f"{method} {rule.rule}: {answer.text}"
                walked.add((method, rule.rule))
            else:
                assert_problem(answer, 403, "insufficient_scope")
                assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    assert walked == allowed


def test_a_token_needs_no_scope_and_a_truncated_key_is_401(user):
    assert user.get("/user/me").status_code == 200
    assert_problem(user.get("/user/me", headers={"Authorization": "Bearer gbk_"}), 401, "token_invalid")


@pytest.mark.parametrize("key", ["gbk_", "gbk_x", "gbk_" + "A" * 43, "gbk_" + "ä" * 43, "GBK_" + "A" * 43])
def test_a_malformed_key_is_401(client, key):
    headers = {"Authorization": f"Bearer {key}".encode().decode("latin-1")}
    assert_problem(client.get("/chatroom", headers=headers), 401, "token_invalid")


def test_a_key_with_one_wrong_character_is_401(app, user):
    key = make_key(user)["key"]
    for wrong in (key[:-1] + ("A" if key[-1] != "A" else "B"), key.swapcase().replace("GBK_", "gbk_"), key + "A"):
        assert_problem(Program(app, wrong).get("/chatroom"), 401, "token_invalid")


def test_a_deleted_key_stops_working_at_once(app, user):
    made = make_key(user)
    program = Program(app, made["key"])
    assert program.get("/chatroom").status_code == 200
    assert user.delete(f"/user/api-keys/{made['id']}").status_code == 204
    assert_problem(program.get("/chatroom"), 401, "token_revoked")
    assert user.get("/user/api-keys").json == {"items": []}
    assert_problem(user.delete(f"/user/api-keys/{made['id']}"), 404, "not_found")


def test_a_deleted_key_stays_deleted_when_redis_loses_its_data(app, user, redis_db):
    made = make_key(user)
    program = Program(app, made["key"])
    assert program.get("/chatroom").status_code == 200
    user.delete(f"/user/api-keys/{made['id']}")
    redis_db.flushdb()
    assert_problem(program.get("/chatroom"), 401, "token_revoked")


def test_a_key_expires(app, user, redis_db):
    made = make_key(user, expires_in_days=1)
    sql(app, "UPDATE api_keys SET expires_at = now() - interval '1 second'")
    refused = assert_problem(Program(app, made["key"]).get("/chatroom"), 401, "token_expired")
    assert "Make a new one" in refused["detail"]
    assert user.get("/user/api-keys").json == {"items": []}


def test_a_cached_key_expires_too(app, user, redis_db):
    program = Program(app, make_key(user, expires_in_days=1)["key"])
    assert program.get("/chatroom").status_code == 200
    sql(app, "UPDATE api_keys SET expires_at = now() - interval '1 second'")
    redis_db.flushdb()  # it caches the key for a minute
    assert_problem(program.get("/chatroom"), 401, "token_revoked")


@pytest.mark.parametrize("is_asked", [True, False])
@pytest.mark.parametrize("way", ["change", "reset"])
def test_a_new_password_ends_api_keys_only_if_asked(app, make_member, make_user, way, is_asked):
    visitor, tokens = make_member(password=PASSWORD)
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    made = visitor.client.post("/user/api-keys", json={"name": "CI", "scopes": BOTH}, headers=headers).json
    program = Program(app, made["key"])
    assert program.get("/chatroom").status_code == 200
    asked = {"end_api_keys": True} if is_asked else {}
    if way == "change":
        body = {"current_password": PASSWORD, "new_password": "another good one"} | asked
        answer = visitor.post("/auth/change-password", token=tokens["access_token"], **body)
    else:
        body = {"mobile": visitor.mobile, "otp": visitor.forgot().json["otp"], "new_password": "another good one"}
        answer = visitor.post("/auth/reset-password", **(body | asked))
    assert answer.status_code in {200, 204}, answer.text
    if is_asked:
        assert_problem(program.get("/chatroom"), 401, "token_revoked")
    else:
        assert program.get("/chatroom").status_code == 200


def test_no_key_is_made_by_a_request_whose_session_a_new_password_has_just_ended(app, user, monkeypatch):
    """The session is a thief's, whose request was admitted just before. His key would outlive what ends all keys."""
    thief = {"Authorization": f"Bearer {user.access_token}"}

    def change_the_password_first(key):
        answer = user.post("/auth/change-password", json={"new_password": PASSWORD, "end_api_keys": True})
        assert answer.status_code == 200, answer.text
        return hash_key(key)

    monkeypatch.setattr(sessions, "hash_key", change_the_password_first)
    refused = app.test_client().post("/user/api-keys", json={"name": "CI", "scopes": BOTH}, headers=thief)
    assert_problem(refused, 401, "token_revoked")
    assert sql(app, "SELECT count(*) FROM api_keys") == [(0,)]


def test_a_key_ends_with_its_account(app, user, program):
    assert program.get("/chatroom").status_code == 200
    assert user.delete("/user/me").status_code == 204
    assert_problem(program.get("/chatroom"), 401, "token_revoked")
    purge_all(app)
    with app.app_context():
        assert db.session.scalar(text("SELECT count(*) FROM api_keys")) == 0


def test_a_logout_does_not_end_a_key(app, user, program):
    assert user.post("/auth/logout").status_code == 204
    assert program.get("/chatroom").status_code == 200


def test_a_key_can_be_deleted_while_its_users_row_is_locked(app, user):
    """A new password locks the user, then the keys. A deletion that waited for the user could deadlock with it."""
    made = make_key(user)
    with ThreadPoolExecutor(1) as another, app.app_context(), transaction():
        assert lock_user_by_mobile(user.mobile) is not None
        assert another.submit(user.delete, f"/user/api-keys/{made['id']}").result().status_code == 204


def test_twenty_deletions_of_a_key_at_once_make_one_security_event(user):
    made = make_key(user)
    answers = all_at_once([lambda: user.delete(f"/user/api-keys/{made['id']}")] * 20, retry=False)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[204] == 1
    assert set(statuses) <= {204, 404, 503}
    types = [event["type"] for event in user.get("/user/security-events").json["items"]]
    assert types == ["api_key_revoked", "api_key_created"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": BOTH}, "name"),
        ({"name": " ", "scopes": BOTH}, "name"),
        ({"name": "x" * 101, "scopes": BOTH}, "name"),
        ({"name": "a\x00b", "scopes": BOTH}, "name"),
        ({"name": "CI"}, "scopes"),
        ({"name": "CI", "scopes": []}, "scopes"),
        ({"name": "CI", "scopes": "chat:read"}, "scopes"),
        ({"name": "CI", "scopes": ["admin"]}, "scopes"),
        ({"name": "CI", "scopes": ["chat:read", None]}, "scopes"),
        ({"name": "CI", "scopes": ["chat:read"] * 3}, "scopes"),
        ({"name": "CI", "scopes": BOTH, "expires_in_days": 0}, "expires_in_days"),
        ({"name": "CI", "scopes": BOTH, "expires_in_days": 10**30}, "expires_in_days"),
        ({"name": "CI", "scopes": BOTH, "expires_in_days": "30"}, "expires_in_days"),
        ({"name": "CI", "scopes": BOTH, "expires_in_days": 1.5}, "expires_in_days"),
        ({"name": "CI", "scopes": BOTH, "expires_in_days": True}, "expires_in_days"),
        ({"name": "CI", "scopes": BOTH, "key": "gbk_mine"}, "key"),
    ],
)
def test_a_key_with_a_bad_field_is_422(user, body, field):
    answer = user.post("/user/api-keys", json=body)
    assert field in assert_problem(answer, 422, "validation_error")["errors"]


def test_a_scope_named_twice_counts_once(user):
    assert make_key(user, scopes=["chat:read", "chat:read"])["scopes"] == ["chat:read"]


def test_ended_keys_are_swept_after_a_day(app, user):
    made = make_key(user)
    make_key(user, expires_in_days=1)
    user.delete(f"/user/api-keys/{made['id']}")
    with app.app_context():
        assert delete_ended(now=utc_now())["revoked API keys"] == 0
        deleted = delete_ended(now=utc_now() + timedelta(days=3))
        assert (deleted["revoked API keys"], deleted["expired API keys"]) == (1, 1)


def test_the_export_lists_api_keys_without_their_secrets(user):
    made = make_key(user)
    key = made.pop("key")
    exported = user.get("/user/me/export")
    assert exported.json["api_keys"] == [made]
    assert key not in exported.text
    assert hash_key(key) not in exported.text
