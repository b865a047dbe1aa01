"""When Gemini is down for everybody, one call at a time asks whether it is back."""

import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
from uuid_utils.compat import uuid7

from app.core.clock import utc_now
from app.generation import breaker as breakers
from app.generation.breaker import Breaker
from app.generation.runner import backoff_seconds
from app.generation.tasks import start_runner
from app.integrations.gemini.client import ModelTimeout, ModelUnavailable
from tests.rooms import Room, nearly_open_breaker, open_breaker


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(breakers, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def breaker(clock, monkeypatch):
    monkeypatch.setattr(breakers, "THRESHOLD", 3)
    monkeypatch.setattr(breakers, "MAX_PAUSE_SECONDS", 5)
    return Breaker("Gemini")


def fail(breaker, times=1):
    for _ in range(times):
        breaker.record(answered=False)


def test_the_breaker_opens_after_failures_in_a_row_and_logs_it(breaker, caplog):
    fail(breaker, 2)
    breaker.record(answered=True)
    fail(breaker, 2)
    assert breaker.wait_seconds(uuid7()) == 0
    fail(breaker)
    assert breaker.wait_seconds(uuid7()) > 2
    assert [(one.levelname, "the breaker is open" in one.getMessage()) for one in caplog.records] == [("ERROR", True)]


def test_the_log_says_how_the_last_call_failed(breaker, caplog):
    for reason in ("HTTP 503", "HTTP 503", "HTTP 429"):
        with pytest.raises(ModelUnavailable), breaker.watch(uuid7()):
            raise ModelUnavailable(reason)
    assert "has failed 3 times in a row (HTTP 429): the breaker is open for 2 s" in caplog.text


def test_after_the_pause_one_call_probes_while_the_others_wait(breaker, clock):
    fail(breaker, 3)
    clock.now += 2.1
    waits = [breaker.wait_seconds(uuid7()) for _ in range(5)]
    assert waits[0] == 0
    assert all(wait > 0 for wait in waits[1:])


def test_a_failed_probe_doubles_the_pause_up_to_its_bound(breaker, clock):
    fail(breaker, 3)
    for pause in (2, 4, 5, 5):
        clock.now += pause - 0.1
        assert breaker.wait_seconds(uuid7()) > 0
        clock.now += 0.2
        assert breaker.wait_seconds(uuid7()) == 0
        fail(breaker)


def test_an_answered_probe_closes_the_breaker_and_logs_it(breaker, clock, caplog):
    fail(breaker, 3)
    clock.now += 2.1
    breaker.wait_seconds(uuid7())
    breaker.record(answered=True)
    assert [breaker.wait_seconds(uuid7()) for _ in range(3)] == [0, 0, 0]
    assert "the breaker is closed" in caplog.text


def test_an_inconclusive_probe_makes_room_for_another(breaker, clock):
    fail(breaker, 3)
    clock.now += 2.1
    breaker.wait_seconds(uuid7())
    breaker.record(answered=None)
    assert breaker.wait_seconds(uuid7()) == 0


def test_a_probe_that_takes_long_makes_room_for_another(breaker, clock):
    fail(breaker, 3)
    clock.now += 2.1
    assert breaker.wait_seconds(uuid7()) == 0
    clock.now += 2.9
    assert breaker.wait_seconds(uuid7()) > 0
    clock.now += 0.2
    assert [breaker.wait_seconds(uuid7()) == 0 for _ in range(3)] == [True, False, False]


def test_slow_probes_are_made_less_and_less_often(clock):
    """Each holds a thread of the worker until its call times out."""
    breaker = open_breaker()
    began, probes = clock.now, []
    while clock.now < began + 100:
        clock.now += 0.5
        if breaker.wait_seconds(uuid7()) == 0:
            probes.append(clock.now)
    assert [later - sooner for sooner, later in pairwise(probes)] == [3, 4, 8, 16, 20, 20, 20]


def in_another_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.parametrize("answered", [False, None])
def test_a_call_that_began_before_the_breaker_opened_is_not_taken_for_the_probe(breaker, clock, answered):
    fail(breaker, 3)
    clock.now += 2.1
    assert breaker.wait_seconds(uuid7()) == 0
    in_another_thread(lambda: breaker.record(answered=answered))
    assert breaker.wait_seconds(uuid7()) > 0, "the probe is still under way"
    breaker.record(answered=None)
    assert breaker.wait_seconds(uuid7()) == 0, "the pause has not become longer"


def test_a_probe_that_took_too_long_no_longer_counts_as_one(breaker, clock):
    fail(breaker, 3)
    clock.now += 2.1
    in_another_thread(lambda: breaker.wait_seconds(uuid7()))
    clock.now += 3.1
    assert breaker.wait_seconds(uuid7()) == 0
    in_another_thread(lambda: fail(breaker))
    assert breaker.wait_seconds(uuid7()) > 0
    breaker.record(answered=None)
    assert breaker.wait_seconds(uuid7()) == 0


def take_too_long(breaker, user_id):
    with pytest.raises(ModelTimeout), breaker.watch(user_id):
        raise ModelTimeout("too long")


def test_only_the_first_of_one_users_time_outs_in_a_row_counts(breaker):
    one, two = uuid7(), uuid7()
    for user_id in [one, two] * 10:
        take_too_long(breaker, user_id)
    assert breaker.wait_seconds(uuid7()) == 0
    take_too_long(breaker, uuid7())
    assert breaker.wait_seconds(uuid7()) > 0


def test_a_user_whose_calls_failed_lets_others_probe_first(breaker, clock):
    """A prompt that always fails must not keep those of others waiting."""
    failing, another = uuid7(), uuid7()
    for _ in range(3):
        with pytest.raises(ModelUnavailable), breaker.watch(failing):
            raise ModelUnavailable("HTTP 500")
    clock.now += 2.1
    assert 3.9 < breaker.wait_seconds(failing) < 7
    assert breaker.wait_seconds(another) == 0
    breaker.record(answered=None)
    clock.now += 4
    assert breaker.wait_seconds(failing) == 0


def test_a_users_time_out_counts_again_after_an_answer(breaker):
    one = uuid7()
    take_too_long(breaker, one)
    breaker.record(answered=True)
    fail(breaker, 2)
    take_too_long(breaker, one)
    assert breaker.wait_seconds(uuid7()) > 0


def test_a_probe_that_no_thread_can_be_started_for_makes_room_for_another(room, make_runner, clock, monkeypatch):
    """A worker at its limit of threads meets this."""
    breaker = open_breaker()
    runner = make_runner(breaker=breaker)
    clock.now += 2.1

    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        room.answer(runner, "Hello")
    assert room.answer(runner, "Hello again").status == "completed"
    assert breaker.wait_seconds(uuid7()) == 0


@pytest.mark.usefixtures("clock")
def test_an_open_breaker_defers_replies_without_counting_a_failure(room, make_runner, gemini):
    breaker = open_breaker()
    runner = make_runner(breaker=breaker)
    gemini.clear_requests()
    reply_id = room.send("Hello")
    room.generate(runner, reply_id)
    row = room.row(reply_id)
    assert (row.status, row.failures) == ("queued", 0)
    assert row.not_before > utc_now()
    assert gemini.stats()["calls"] == 0


@pytest.mark.usefixtures("clock")
def test_a_model_that_is_down_delays_no_other(make_app, make_redis_url, make_user, gemini):
    offer = "gemini-3.5-flash:basic,gemini-3.5-pro:basic"
    app = make_app(redis_url=make_redis_url(), gemini_models=offer, gemini_api_key="sandbox-key")
    start_runner(app)
    runner, person = app.extensions["runner"], make_user()
    fail(runner.breakers["gemini-3.5-pro"], 10)
    person.client = app.test_client()
    rooms = [person.post("/chatroom", json={"model": name}).headers["Location"] for name in runner.breakers]
    replies = [Room(app, person, path).answer(runner, "Hello") for path in rooms]
    assert [reply.status for reply in replies] == ["completed", "queued"]
    runner.keeper.close()


def test_a_refusal_of_one_model_is_logged_once_while_another_one_answers(
    make_app, make_redis_url, make_user, gemini, capsys
):
    offer = "gemini-3.5-flash:basic,gemini-3.5-pro:basic"
    own = {"gemini_models": offer, "gemini_api_key": "sandbox-key", "basic_daily_prompts": 10}
    app = make_app(redis_url=make_redis_url(), **own)
    start_runner(app)
    runner, person = app.extensions["runner"], make_user()
    person.client = app.test_client()
    rooms = [person.post("/chatroom", json={"model": name}).headers["Location"] for name in runner.breakers]
    for path, text in zip(rooms * 3, ["Hello", "[[sandbox: status=404]]"] * 3, strict=True):
        Room(app, person, path).answer(runner, text)
    assert capsys.readouterr().err.count("Gemini refused a call") == 1
    runner.keeper.close()


def test_a_reply_whose_time_runs_out_behind_the_breaker_fails_and_is_refunded(room, make_runner):
    breaker = open_breaker()
    reply_id = room.send("Hello")
    room.sql("UPDATE messages SET started_at = now() - interval '1 hour' WHERE role = 'model'")
    room.generate(make_runner(breaker=breaker), reply_id)
    reply = room.read(reply_id)
    assert (reply.error["code"], reply.context) == ("model_unavailable", None)  # Gemini was never asked
    assert room.used() == 0


def test_a_reply_whose_time_runs_out_after_gemini_was_asked_shows_its_context(room, make_runner):
    breaker = nearly_open_breaker()
    runner = make_runner(breaker=breaker)
    reply_id = room.send("[[sandbox: status=503]]")
    room.generate(runner, reply_id)
    room.sql("UPDATE messages SET not_before = now(), started_at = now() - interval '1 hour' WHERE role = 'model'")
    room.generate(runner, reply_id)
    reply = room.read(reply_id)
    assert (reply.status, reply.context) == ("failed", {"messages_sent": 1, "messages_omitted": 0})


def test_delays_double_up_to_a_bound_and_are_randomized():
    for failures, longest in ((1, 1), (2, 2), (3, 4), (5, 16), (9, 20)):
        delays = {backoff_seconds(failures) for _ in range(50)}
        assert all(longest / 2 <= seconds <= longest for seconds in delays)
        assert len(delays) > 40


@pytest.mark.parametrize(
    ("directive", "so_far"),
    [
        ("status=503", "failures = 2"),  # the third attempt is the last
        ("status=503", "started_at = now() - interval '59.6 seconds'"),  # the next one would begin after a minute
        ("status=503 retry_after=61", "failures = 0"),
    ],
)
def test_there_is_no_retry_past_the_attempts_or_the_time(room, runner, directive, so_far):
    reply_id = room.send(f"[[sandbox: {directive}]]")
    room.sql(f"UPDATE messages SET {so_far} WHERE id = :id", id=reply_id)
    room.generate(runner, reply_id)
    assert room.read(reply_id).error["code"] == "model_unavailable"


@pytest.mark.parametrize("gemini_timeout", [1])
def test_ten_hanging_prompts_of_two_users_do_not_delay_a_third_user(room, quiet_app, make_user, runner):
    """If ten time-outs in a row were of ten users, the breaker would take them for an outage."""
    hanging = []
    for person in (make_user(), make_user()):
        person.client = quiet_app.test_client()
        hanging += [Room(quiet_app, person, person.make_chatroom()) for _ in range(5)]
    replies = [one.send("[[sandbox: hang]]") for one in hanging]
    threads = [one.generate_meanwhile(runner, reply_id) for one, reply_id in zip(hanging, replies, strict=True)]
    for thread in threads:
        thread.join()
    assert {one.row(reply_id).failures for one, reply_id in zip(hanging, replies, strict=True)} == {1}
    began = time.monotonic()
    assert room.answer(runner, "Hello").status == "completed"
    assert time.monotonic() - began < 3
