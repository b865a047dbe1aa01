"""The cached first page: a hit costs no query, and no change is ever missed."""

import json
import logging
import os
import pickle

import pytest
import redis
from sqlalchemy import event

from app.chatrooms.list_cache import through_cache
from app.core.db import db
from app.core.redis import cache
from sandbox.stack.servers import ValkeyServer


def listed(user, query=""):
    response = user.get(f"/chatroom{query}")
    assert response.status_code == 200, response.text
    return response.headers["X-Cache"], [room["title"] for room in response.json["items"]]


def test_first_list_is_a_miss_and_the_second_a_hit_with_the_same_body(user):
    user.make_chatroom("A room")
    miss, hit = user.get("/chatroom"), user.get("/chatroom")
    assert (miss.headers["X-Cache"], hit.headers["X-Cache"]) == ("MISS", "HIT")
    assert miss.data == hit.data
    assert miss.content_type == hit.content_type == "application/json"


def test_hit_costs_no_query(user, statements):
    user.make_chatroom("A room")
    assert listed(user) == ("MISS", ["A room"])
    assert any("chatrooms" in statement for statement in statements)
    statements.clear()
    assert listed(user) == ("HIT", ["A room"])
    assert statements == []


def test_empty_list_is_cached_too(user):
    assert listed(user) == ("MISS", [])
    assert listed(user) == ("HIT", [])


class Planted:
    """An object that runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("prefix", [b"!", b""], ids=["as cachelib marks it", "bare"])
def test_data_planted_in_redis_is_never_unpickled_and_is_replaced(user, redis_db, tmp_path, prefix):
    planted = prefix + pickle.dumps(Planted(tmp_path / "was-run"))
    assert listed(user) == ("MISS", [])
    keys = redis_db.keys("cache:*")
    assert len(keys) == 2  # the version and the page
    for plant in ([keys[0]], [keys[1]], keys):
        for key in plant:
            redis_db.set(key, planted)
        assert listed(user) == ("MISS", [])
        assert listed(user) == ("HIT", [])
        assert not (tmp_path / "was-run").exists()
    assert {type(json.loads(redis_db.get(key))) for key in keys} == {str}


@pytest.mark.parametrize("planted", [b"[" * 100_000, b"17", b"null", b"\xff"])
def test_a_cached_value_that_is_no_text_is_a_miss(user, redis_db, planted):
    assert listed(user) == ("MISS", [])
    for key in redis_db.keys("cache:*"):
        redis_db.set(key, planted)
    assert listed(user) == ("MISS", [])
    assert listed(user) == ("HIT", [])


def test_a_page_of_another_size_replaces_the_cached_one(user, redis_db):
    """Pages of every possible size would take hundreds of megabytes for one user."""
    for title in ("first", "second", "third"):
        user.make_chatroom(title)
    assert listed(user, "?limit=1") == ("MISS", ["third"])
    assert listed(user, "?limit=2") == ("MISS", ["third", "second"])
    assert listed(user, "?limit=2") == ("HIT", ["third", "second"])
    assert listed(user, "?limit=1") == ("MISS", ["third"])
    assert len(redis_db.keys("cache:chatrooms:*")) == 2  # the version and the page
    user.make_chatroom("fourth")
    assert listed(user, "?limit=1") == ("MISS", ["fourth"])
    assert listed(user, "?limit=2") == ("MISS", ["fourth", "third"])


def test_a_page_of_long_instructions_is_not_cached(user):
    for _ in range(6):
        assert user.post("/chatroom", json={"title": "A room", "instruction": "\U0001f389" * 4_000}).status_code == 201
    assert [listed(user)[0] for _ in range(2)] == ["MISS", "MISS"]
    assert [listed(user, "?limit=1")[0] for _ in range(2)] == ["MISS", "HIT"]


def test_later_pages_are_not_cached(user):
    for title in ("first", "second"):
        user.make_chatroom(title)
    cursor = user.get("/chatroom?limit=1").json["next_cursor"]
    for _ in range(2):
        assert listed(user, f"?limit=1&cursor={cursor}") == ("MISS", ["first"])


@pytest.mark.parametrize("change", ["create", "rename", "delete", "message"])
def test_change_shows_at_the_very_next_list(user, change):
    first = user.make_chatroom("first")
    user.make_chatroom("second")
    for _ in range(3):
        assert listed(user)[1][-1] == "first"
    assert listed(user)[0] == "HIT"
    if change == "create":
        user.make_chatroom("third")
    elif change == "rename":
        user.patch(first, json={"title": "renamed"})
    elif change == "delete":
        user.delete(first)
    else:
        assert user.post(f"{first}/message", json={"text": "Hello"}).status_code == 202
    expected = {
        "create": ["third", "second", "first"],
        "rename": ["second", "renamed"],
        "delete": ["second"],
        "message": ["first", "second"],
    }
    assert listed(user) == ("MISS", expected[change])
    assert listed(user) == ("HIT", expected[change])


def test_change_shows_at_the_very_next_list_even_when_redis_is_full(make_app, user):
    with ValkeyServer() as own, redis.Redis.from_url(own.url) as valkey:
        user.client = make_app(redis_url=own.url).test_client()
        first = user.make_chatroom("first")
        assert [listed(user) for _ in range(2)] == [("MISS", ["first"]), ("HIT", ["first"])]
        valkey.config_set("maxmemory", 1)
        assert user.patch(first, json={"title": "renamed"}).status_code == 200
        assert [listed(user) for _ in range(2)] == [("MISS", ["renamed"])] * 2
        valkey.config_set("maxmemory", 0)
        assert [listed(user)[0] for _ in range(2)] == ["MISS", "HIT"]


def test_a_change_of_one_user_keeps_the_cache_of_others(make_user):
    ada, bob = make_user(), make_user()
    ada.make_chatroom("Ada's")
    listed(ada)
    bob.make_chatroom("Bob's")
    assert listed(ada) == ("HIT", ["Ada's"])


def test_a_refused_change_keeps_the_cache(user):
    user.make_chatroom("A room")
    listed(user)
    assert user.post("/chatroom", json={"title": ""}).status_code == 422
    assert user.delete("/chatroom/0192d3a4-5b6c-7d8e-9f01-23456789abcd").status_code == 404
    assert listed(user) == ("HIT", ["A room"])


@pytest.mark.parametrize("cached_before", [True, False])
def test_slow_reader_that_races_a_change_leaves_no_stale_list(app, user, cached_before):
    """The reader gets the version, queries, is overtaken by a change, and then stores its page."""
    if cached_before:
        user.make_chatroom("first")
    overtaken = []

    def overtake(_connection, _cursor, statement, *_):
        if "FROM chatrooms" in statement and not overtaken:
            overtaken.append(user.make_chatroom("new"))

    with app.app_context():
        engine = db.engine
    event.listen(engine, "after_cursor_execute", overtake)
    slow = listed(user)
    event.remove(engine, "after_cursor_execute", overtake)
    assert overtaken
    assert slow == ("MISS", ["first"] if cached_before else [])
    assert listed(user) == ("MISS", ["new", "first"] if cached_before else ["new"])
    assert listed(user)[0] == "HIT"


def test_a_slow_reader_that_stores_its_page_last_does_not_replace_a_fresh_one(app, user):
    """There are two readers and a change in between, and the later store has the older page."""
    user.make_chatroom("first")
    listed(user)
    user.patch(user.make_chatroom("second"), json={"title": "second, renamed"})
    fresh = []

    def overtaken() -> str:
        user.make_chatroom("third")
        fresh.append(listed(user))
        return '{"items": [], "next_cursor": null}'

    with app.app_context():
        _, is_cached = through_cache(user.id, 20, overtaken, archived=False)
    assert not is_cached
    assert fresh == [("MISS", ["third", "second, renamed", "first"])]
    assert listed(user)[1] == fresh[0][1]


def test_losing_the_version_in_redis_makes_no_old_page_current_again(user, redis_db):
    user.make_chatroom("first")
    listed(user)
    page_key = next(key for key in redis_db.keys("cache:chatrooms:*") if not key.endswith(b":version"))
    old_page = redis_db.dump(page_key)
    user.make_chatroom("second")
    assert listed(user)[0] == "MISS"
    redis_db.delete(*redis_db.keys("cache:chatrooms:*:version"))
    redis_db.restore(page_key, 60_000, old_page, replace=True)
    assert listed(user) == ("MISS", ["second", "first"])


def test_cached_list_expires_after_five_minutes(user, redis_db):
    user.make_chatroom("A room")
    listed(user)
    page_key = next(key for key in redis_db.keys("cache:chatrooms:*") if not key.endswith(b":version"))
    assert 290 <= redis_db.ttl(page_key) <= 300


def test_rubbish_in_the_cache_is_a_miss(user, redis_db):
    user.make_chatroom("A room")
    listed(user)
    page_key = next(key for key in redis_db.keys("cache:chatrooms:*") if not key.endswith(b":version"))
    for rubbish in (b"", b"\x00", b"rubbish", b"!\x80\x04N."):
        redis_db.set(page_key, rubbish)
        assert listed(user) == ("MISS", ["A room"])


def test_a_failure_of_redis_is_logged_and_hidden_from_the_client(user, monkeypatch, caplog):
    def fail(*_args, **_kwargs):
        raise redis.ConnectionError

    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(type(cache), "get_many", fail)
        monkeypatch.setattr(redis.Redis, "unlink", fail)
        user.make_chatroom("A room")
        assert listed(user) == ("MISS", ["A room"])
    [told] = [record for record in caplog.records if record.name == "app.chatrooms.list_cache"]
    assert (told.levelname, "list of chatrooms could not be invalidated" in told.getMessage()) == ("WARNING", True)
