"""Redis caches active sessions for a minute: requests cost no SQL, and a session that ends counts at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import redis

from app.auth.sessions import end_session, revoke_key
from app.core.admission import ACTIVE_SECONDS, TOMBSTONE_SECONDS, remember_active, session_key
from sandbox.stack.servers import ValkeyServer
from tests.auth.conftest import make_key
from tests.problems import assert_problem


def session_of(user):
    (session,) = user.get("/auth/sessions").json["items"]
    return session["id"]


def test_a_request_of_a_cached_session_costs_no_sql(user, statements):
    assert user.get("/chatroom").status_code == 200
    statements.clear()
    assert user.get("/chatroom").headers["X-Cache"] == "HIT"
    assert statements == []


def test_an_entry_lasts_a_minute_and_a_tombstone_longer(app, user, redis_db):
    key = session_key(session_of(user))
    assert 0 < redis_db.ttl(key) <= ACTIVE_SECONDS == 60
    assert user.post("/auth/logout").status_code == 204
    assert ACTIVE_SECONDS < redis_db.ttl(key) <= TOMBSTONE_SECONDS


@pytest.mark.parametrize("end", ["logout", "end", "change-password", "delete"])
def test_the_end_of_a_session_counts_at_the_next_request(user, end):
    session = session_of(user)
    assert user.get("/user/me").status_code == 200
    if end == "logout":
        user.post("/auth/logout")
    elif end == "end":
        user.delete(f"/auth/sessions/{session}")
    elif end == "change-password":
        user.post("/auth/change-password", json={"new_password": "correct horse battery"})
    else:
        user.delete("/user/me")
    assert_problem(user.get("/chatroom"), 401, "token_revoked")


def test_a_lookup_that_began_before_the_end_does_not_revive_a_session(app, user):
    session = session_of(user)
    assert user.post("/auth/logout").status_code == 204
    with app.app_context():
        remember_active(session, user.id)
    assert_problem(user.get("/user/me"), 401, "token_revoked")


def test_a_token_whose_session_has_ended_is_not_looked_up_each_time(user, redis_db, statements):
    session = session_of(user)
    user.post("/auth/logout")
    redis_db.delete(session_key(session))  # the tombstone has expired
    assert_problem(user.get("/user/me"), 401, "token_revoked")
    statements.clear()
    assert_problem(user.get("/user/me"), 401, "token_revoked")
    assert statements == []


def test_a_session_that_is_cached_for_another_user_is_refused(app, user, make_user, redis_db):
    other = make_user()
    redis_db.set(session_key(session_of(user)), other.id)
    assert_problem(user.get("/user/me"), 401, "token_revoked")


def test_requests_that_race_a_logout_may_be_answered_and_later_ones_are_refused(user):
    barrier = Barrier(9)

    def read(_):
        barrier.wait()
        return user.client.application.test_client().get(
            "/user/me", headers={"Authorization": f"Bearer {user.access_token}"}
        )

    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(read, number) for number in range(8)]
        barrier.wait()
        assert user.post("/auth/logout").status_code == 204
        assert {answer.result().status_code for answer in answers} <= {200, 401}
    assert_problem(user.get("/user/me"), 401, "token_revoked")


@pytest.fixture
def end_twice_at_once(user, monkeypatch):
    """Send a request twice; neither ends anything before both are admitted. Returns the statuses."""
    barrier, headers = Barrier(2), {"Authorization": f"Bearer {user.access_token}"}

    def wait_before(end):
        def waiting(*args, **kwargs):
            barrier.wait(timeout=30)
            return end(*args, **kwargs)

        return waiting

    monkeypatch.setattr("app.auth.sessions.end_session", wait_before(end_session))
    monkeypatch.setattr("app.auth.sessions.revoke_key", wait_before(revoke_key))

    def send(method, path):
        clients = [user.client.application.test_client() for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            answers = pool.map(lambda client: client.open(path, method=method, headers=headers), clients)
            return sorted(answer.status_code for answer in answers)

    return send


def test_a_logout_succeeds_even_when_another_one_was_faster(user, end_twice_at_once):
    assert end_twice_at_once("POST", "/auth/logout") == [204, 204]
    assert_problem(user.get("/user/me"), 401, "token_revoked")


def test_one_of_two_requests_that_end_a_session_or_a_key_at_once_gets_404(user, end_twice_at_once):
    session, key = session_of(user), make_key(user)["id"]
    assert end_twice_at_once("DELETE", f"/user/api-keys/{key}") == [204, 404]
    assert end_twice_at_once("DELETE", f"/auth/sessions/{session}") == [204, 404]


def test_a_logout_ends_a_session_that_only_redis_has_kept(user, redis_db):
    session = session_of(user)
    assert user.post("/auth/logout").status_code == 204
    redis_db.set(session_key(session), user.id)  # as if Redis had died at the moment of the logout, and come back
    assert user.post("/auth/logout").status_code == 204
    assert_problem(user.get("/user/me"), 401, "token_revoked")


@pytest.mark.parametrize("limit", [0, 100])
def test_the_end_of_a_session_counts_even_when_redis_is_full(make_app, user, limit):
    with ValkeyServer(append_only=False) as own, redis.Redis.from_url(own.url) as valkey:
        user.client = make_app(redis_url=own.url, rate_limit_per_minute=limit).test_client()
        assert user.get("/user/me").status_code == 200
        valkey.config_set("maxmemory", 1)
        assert user.post("/auth/logout").status_code == 204
        assert_problem(user.get("/user/me"), 401, "token_revoked")
        valkey.config_set("maxmemory", 0)
        assert_problem(user.get("/user/me"), 401, "token_revoked")


@pytest.fixture
def without_redis(user, make_app):
    """The user of a service without Redis."""
    user.client = make_app(redis_url="redis://127.0.0.1:1").test_client()
    return user


def test_without_redis_the_end_of_a_session_counts_at_the_next_request(without_redis):
    user = without_redis
    assert [user.get("/user/me").status_code for _ in range(2)] == [200, 200]
    assert user.post("/auth/logout").status_code == 204
    assert_problem(user.get("/user/me"), 401, "token_revoked")
    assert_problem(user.get("/user/me"), 401, "token_revoked")


def test_without_redis_the_end_of_an_api_key_counts_at_the_next_request(without_redis):
    user = without_redis
    made = user.post("/user/api-keys", json={"name": "CI", "scopes": ["chat:read"]})
    assert made.status_code == 201, made.text
    headers = {"Authorization": f"Bearer {made.json['key']}"}
    assert [user.client.get("/chatroom", headers=headers).status_code for _ in range(2)] == [200, 200]
    assert user.delete(f"/user/api-keys/{made.json['id']}").status_code == 204
    assert_problem(user.client.get("/chatroom", headers=headers), 401, "token_revoked")
    assert user.get("/user/me").status_code == 200, "the session goes on"
