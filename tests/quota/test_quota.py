"""Five prompts a UTC day for Basic: exact, honest, and safe against the loss of either store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from app.billing.tier import grant_pro
from app.core.clock import utc_now
from app.core.transactions import transaction
from app.messages.service import accept_prompt
from app.quota.ledger import disown_charges
from app.quota.usage import quota_headers, usage_today
from sandbox.stack.servers import ValkeyServer
from tests.people import all_at_once

LATE = datetime(2031, 5, 1, 23, 59, 59, tzinfo=UTC)
NEXT_DAY = datetime(2031, 5, 2, 0, 0, 1, tzinfo=UTC)


def post(room, text="Hello"):
    return room.person.post(f"{room.path}/message", json={"text": text})


def test_sixth_prompt_of_the_day_is_refused(room):
    answers = [post(room) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * 5 + [429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["4", "3", "2", "1", "0", "0"]
    refused = answers[-1]
    assert refused.json["code"] == "daily_quota_exceeded"
    assert refused.headers["RateLimit-Limit"] == "5"
    assert 0 < int(refused.headers["Retry-After"]) == int(refused.headers["RateLimit-Reset"]) <= 86_400
    assert room.used() == 5


def test_exactly_five_of_twenty_parallel_prompts_are_accepted(room):
    codes = [answer.status_code for answer in all_at_once([lambda: post(room)] * 20)]
    assert sorted(codes) == [202] * 5 + [429] * 15
    assert room.used() == len(room.charges()) == 5


def test_a_prompt_that_is_refused_with_an_error_spends_nothing(room, make_user):
    assert post(room, "").status_code == 422
    assert post(room, "x" * 8001).status_code == 422
    assert room.person.post(f"{make_user().make_chatroom()}/message", json={"text": "Hi"}).status_code == 404
    assert room.used() == 0
    assert [post(room).status_code for _ in range(5)] == [202] * 5


def test_the_day_ends_at_midnight_utc(room):
    ids = (UUID(room.person.id), UUID(room.path.rsplit("/", 1)[1]))
    with room.app.app_context():
        accepted = [accept_prompt(*ids, "Hello", now=LATE) for _ in range(5)]
        assert accepted[-1].usage.remaining == 0
        assert quota_headers(accepted[-1].usage)["RateLimit-Reset"] == "1"
        assert accept_prompt(*ids, "Hello", now=NEXT_DAY).usage.remaining == 4
        assert usage_today(ids[0], now=LATE).used == 5
        assert usage_today(ids[0], now=NEXT_DAY).used == 1


def test_pro_has_no_limit_but_its_prompts_count_when_it_falls_back(room):
    with room.app.app_context():
        grant_pro(UUID(room.person.id), reason="A test", ends_at=None, now=utc_now())
    answers = [post(room) for _ in range(7)]
    assert {answer.status_code for answer in answers} == {202}
    assert not [name for name, _ in answers[0].headers if name.startswith("RateLimit")]
    assert room.person.get("/user/usage").json | {"resets_at": None} == {
        "tier": "pro",
        "limit": None,
        "used": 7,
        "remaining": None,
        "resets_at": None,
    }
    room.sql("UPDATE pro_grants SET revoked_at = now()")
    assert post(room).status_code == 429
    assert room.person.get("/user/usage").json["remaining"] == 0


def test_a_counter_that_redis_lost_is_counted_anew(room, make_user):
    for _ in range(3):
        post(room)
    with room.app.app_context():
        room.app.extensions["redis"].flushdb()
    assert [post(room).status_code for _ in range(3)] == [202, 202, 429]


def test_parallel_prompts_after_the_loss_of_the_counter_are_exact(room):
    for _ in range(3):
        post(room)
    room.app.extensions["redis"].flushdb()
    codes = [answer.status_code for answer in all_at_once([lambda: post(room)] * 20)]
    assert codes.count(202) == 2


def test_a_counter_that_is_too_high_refuses_nobody(room):
    """A process that dies between the counter and the commit leaves the counter one too high."""
    post(room)
    key = next(iter(room.app.extensions["redis"].scan_iter("*prompts*")))
    room.app.extensions["redis"].incrby(key, 4)
    assert [post(room).status_code for _ in range(5)] == [202] * 4 + [429]


def test_a_counter_that_is_too_low_allows_no_sixth_prompt(room):
    """For example, Redis is restored from an older snapshot."""
    for _ in range(4):
        post(room)
    key = next(iter(room.app.extensions["redis"].scan_iter("*prompts*")))
    room.app.extensions["redis"].decrby(key, 2)
    assert [post(room).status_code for _ in range(3)] == [202, 429, 429]


def test_deleting_the_room_does_not_refill_the_quota(room):
    for _ in range(5):
        post(room)
    room.person.delete(room.path)
    room.app.extensions["redis"].flushdb()
    room.path = room.person.make_chatroom()
    assert post(room).status_code == 429


def test_a_refunded_prompt_may_be_spent_again(room, runner):
    for _ in range(4):
        post(room)
    room.sql("UPDATE messages SET status = 'completed', text = 'Done', completed_at = now() WHERE role = 'model'")
    room.answer(runner, "[[sandbox: status=404]]")
    assert room.used() == 4
    assert [post(room).status_code for _ in range(2)] == [202, 429]


def test_a_prompt_is_refunded_to_the_day_it_was_charged_to(room, runner):
    reply_id = room.send("[[sandbox: status=404]]")
    room.sql("UPDATE prompt_charges SET day = day - 1")
    post(room)
    room.generate(runner, reply_id)
    assert room.used() == 1


def test_redis_knows_no_mobile_number(room):
    post(room)
    client = room.app.extensions["redis"]
    assert not [key for key in client.scan_iter("*") if room.person.mobile[1:].encode() in key]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_without_redis_a_prompt_is_refused_in_time_and_nothing_is_stored(
    app: Flask, make_app: Callable[..., Flask], make_user: Callable[..., Any], how: str
):
    with ValkeyServer(append_only=False) as own:
        other = make_app(redis_url=own.url)
        person = make_user()
        person.client = other.test_client()
        path = person.make_chatroom()
        getattr(own, how)()
        begun = utc_now()
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: person.post(f"{path}/message", json={"text": "Hi"}), range(10)))
        assert (utc_now() - begun).total_seconds() < 10, "one after the other they would wait for longer"
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].headers["Retry-After"]
        assert person.get(f"{path}/messages").json["items"] == []
        assert person.get("/user/usage").json["used"] == 0


def test_no_more_charges_are_disowned_at_once_than_the_caller_allows(room):
    for _ in range(3):
        assert post(room).status_code == 202
    with room.app.app_context(), transaction():
        assert [disown_charges(UUID(room.person.id), limit=2) for _ in range(3)] == [2, 1, 0]
