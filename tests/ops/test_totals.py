"""The totals of what has ended: each reply counts once, with its calls to Gemini and its tokens."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from app.core.clock import database_now, utc_now
from app.ops import totals
from tests.ops.test_metrics import scrape
from tests.rooms import nearly_open_breaker


@pytest.mark.processes
def test_a_reply_of_a_worker_is_counted_once(user, app, worker, gemini):
    room = user.make_chatroom()
    answer = user.post(f"{room}/message", json={"text": "Hello"}, headers={"Prefer": "wait=10"})
    assert answer.json["reply"]["status"] == "completed"
    now = utc_now()
    with app.app_context():
        totals.count_replies(now)  # from here on

    def count(later: float) -> None:
        with app.app_context():
            totals.count_replies(now + totals.SETTLING + timedelta(seconds=later))

    with ThreadPoolExecutor(8) as workers:  # all at once, then again
        list(workers.map(count, [1] * 8))
    count(2)
    scraped = scrape(user.client)
    usage = answer.json["reply"]["usage"]
    assert scraped["replies_total", "completed"] == 1
    assert scraped["gemini_calls_total", "answered"] == 1
    assert scraped["gemini_tokens_total", "output"] == usage["output_tokens"]
    assert scraped["reply_seconds_count",] == 1
    assert scraped["reply_seconds_bucket", "+Inf"] == 1


def test_a_reply_accepted_under_a_fast_clock_takes_nothing_off_a_total(room, runner):
    now = utc_now()
    with room.app.app_context():
        totals.count_replies(now)
    room.answer(runner, "Hello")
    room.sql("UPDATE messages SET accepted_at = completed_at + interval '5 seconds' WHERE role = 'model'")
    with room.app.app_context():
        totals.count_replies(now + totals.SETTLING + timedelta(minutes=1))
    assert scrape(room.person.client)["reply_seconds_sum",] == 0


def test_each_end_of_a_reply_is_counted_with_its_calls_and_tokens(room, make_runner):
    runner, now = make_runner(), utc_now()
    with room.app.app_context():
        totals.count_replies(now)
    usage = room.answer(runner, "[[sandbox: thinking_tokens=70 say=one]]").usage
    room.answer(runner, "[[sandbox: status=404]]")
    failed = room.send("[[sandbox: status=503]]")
    for _ in range(3):
        room.sql("UPDATE messages SET not_before = NULL")
        room.generate(runner, failed)
    for canceled in (room.send("Hello"), room.send("Again")):
        assert room.person.post(f"{room.path}/messages/{canceled}/cancel").status_code == 200
    with room.app.app_context():
        totals.count_replies(now + totals.SETTLING + timedelta(minutes=1))
    scraped = scrape(room.person.client)
    outcomes = ("completed", "model_rejected", "model_unavailable", "canceled")
    assert [scraped["replies_total", outcome] for outcome in outcomes] == [1, 1, 1, 2]
    assert [scraped["gemini_calls_total", result] for result in ("answered", "refused", "failed")] == [1, 1, 3]
    assert 0 < scraped["reply_seconds_sum",] < 60
    for kind, tokens in (("prompt", usage["prompt_tokens"]), ("thinking", 70), ("output", usage["output_tokens"])):
        assert scraped["gemini_tokens_total", kind] == tokens
        assert scraped["gemini_model_tokens_total", kind, "gemini-3.5-flash"] == tokens


def test_a_reply_that_fails_without_another_call_counts_only_the_calls_that_were_made(room, make_runner):
    """Its workers died, again and again, or its model's breaker was open until its time was over."""
    runner = make_runner(breaker=nearly_open_breaker())
    with room.app.app_context():
        totals.count_replies(utc_now())
    most = room.app.extensions["settings"].reply_max_attempts
    exhausted = room.send("Hello")
    room.sql(f"UPDATE messages SET failures = {most} WHERE role = 'model'")
    room.generate(runner, exhausted)
    late = room.send("[[sandbox: status=503]]")
    room.generate(runner, late)
    room.sql("UPDATE messages SET not_before = NULL, started_at = now() - interval '1 day' WHERE status = 'queued'")
    room.generate(runner, late)
    assert {room.row(reply).error_code for reply in (exhausted, late)} == {"model_unavailable"}
    with room.app.app_context():
        totals.count_replies(database_now() + totals.SETTLING)
    assert scrape(room.person.client)["gemini_calls_total", "failed"] == most + 1


def test_each_answer_without_text_counts_as_one_failed_call(room, runner):
    with room.app.app_context():
        totals.count_replies(utc_now())
    empty = room.send("[[sandbox: empty]]")
    for _ in range(3):
        room.sql("UPDATE messages SET not_before = NULL")
        room.generate(runner, empty)
    assert room.row(empty).error_code == "empty_reply"
    with room.app.app_context():
        totals.count_replies(database_now() + totals.SETTLING)
    scraped = scrape(room.person.client)
    assert [scraped["gemini_calls_total", result] for result in ("answered", "refused", "failed")] == [0, 0, 3]


def test_replies_that_end_later_are_added_to_the_count(room, runner):
    with room.app.app_context():
        totals.count_replies(utc_now())
    for so_far in (1, 2):
        room.answer(runner, "Hello")
        with room.app.app_context():
            totals.count_replies(database_now() + totals.SETTLING)
        assert scrape(room.person.client)["replies_total", "completed"] == so_far


@pytest.mark.processes
def test_a_failed_reply_is_counted_by_its_reason(user, app, worker, gemini):
    gemini.behave(block="SAFETY")
    room = user.make_chatroom()
    answer = user.post(f"{room}/message", json={"text": "Hello"}, headers={"Prefer": "wait=10"})
    code = answer.json["reply"]["error"]["code"]
    now = utc_now()
    with app.app_context():
        totals.count_replies(now)
        totals.count_replies(now + totals.SETTLING + timedelta(seconds=1))
    assert scrape(user.client)["replies_total", code] == 1
