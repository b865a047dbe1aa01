"""API keys: when their last use is noted, which rate limits they spend, and how many a user may have."""

from collections import Counter

from sqlalchemy import event

from app.auth.sessions import MAX_KEYS
from app.core.db import db
from tests.auth.conftest import Program, make_key, sql
from tests.people import all_at_once, log_in
from tests.problems import assert_problem


def test_the_last_use_of_a_key_is_noted_every_five_minutes(app, user, program, redis_db, statements):
    def last_use():
        return user.get("/user/api-keys").json["items"][0]["last_used_at"]

    assert last_use() is None
    assert program.get("/models").status_code == 200
    first = last_use()
    assert first is not None
    redis_db.flushdb()
    statements.clear()
    assert program.get("/models").status_code == 200
    assert not [one for one in statements if one.startswith("UPDATE")]
    assert last_use() == first
    sql(app, "UPDATE api_keys SET last_used_at = last_used_at - interval '6 minutes'")
    redis_db.flushdb()
    assert program.get("/models").status_code == 200
    assert last_use() >= first


def test_a_request_with_a_known_key_costs_no_sql(user, program, statements):
    assert program.get("/chatroom").status_code == 200
    statements.clear()
    assert program.get("/chatroom").headers["X-Cache"] == "HIT"
    assert statements == []


def test_requests_with_a_key_count_towards_its_users_limit(make_app, make_user, make_redis_url):
    limited = make_app(rate_limit_per_minute=5, redis_url=make_redis_url())
    user = make_user()
    user.client = limited.test_client()
    program = Program(limited, make_key(user)["key"])
    answers = [program.get("/models").status_code for _ in range(4)]
    assert answers == [200] * 4
    assert_problem(program.get("/models"), 429, "rate_limited")
    assert_problem(user.get("/models"), 429, "rate_limited")


def test_requests_with_unknown_keys_count_towards_the_limit_of_their_address(make_app, make_redis_url):
    limited = make_app(rate_limit_per_minute=3, redis_url=make_redis_url())
    statuses = [Program(limited, f"gbk_{number}").get("/models").status_code for number in range(5)]
    assert statuses == [401, 401, 401, 429, 429]


def test_a_flood_of_invented_keys_queries_postgresql_no_more_often_than_the_limit(make_app, make_redis_url):
    limited = make_app(rate_limit_per_minute=3, redis_url=make_redis_url())
    sent = []
    with limited.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    for number in range(10):
        Program(limited, f"gbk_{number}").get("/models")
    assert len(sent) == 3


def test_a_user_has_at_most_ten_keys_even_when_they_are_made_at_once(app, client, user):
    sessions = [Program(app, token) for token in (user.access_token, log_in(client, user.mobile).json["access_token"])]

    def one_more(session=sessions[0]):
        return session.call("POST", "/user/api-keys", json={"name": "CI", "scopes": ["chat:read"]})

    answers = all_at_once([lambda session=session: one_more(session) for session in sessions * 7])
    assert Counter(answer.status_code for answer in answers) == {201: MAX_KEYS, 409: 4}
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert_problem(refused, 409, "too_many_api_keys")
    items = user.get("/user/api-keys").json["items"]
    assert len({item["prefix"] for item in items}) == MAX_KEYS
    assert user.delete(f"/user/api-keys/{items[3]['id']}").status_code == 204
    assert one_more().status_code == 201
