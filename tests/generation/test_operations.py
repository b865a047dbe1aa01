"""`flask replies`: an operator looks at failed replies and has them generated again."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from app.generation import cli, state
from app.integrations.gemini.generativeai import Gemini
from sandbox.stack.processes import wait_until
from tests.rooms import somebody_waits_for_a_lock


@pytest.fixture
def flask(quiet_app):
    return lambda *words: quiet_app.test_cli_runner().invoke(args=["replies", *words])


def test_failed_replies_are_listed_without_their_text(room, runner, flask):
    assert "No reply has failed." in flask("failed").output
    reply = room.answer(runner, "[[sandbox: block]] my secret")
    output = flask("failed").output
    assert reply.id in output
    assert "blocked_by_safety" in output
    assert "secret" not in output
    [row] = [json.loads(line) for line in flask("failed", "--json").output.splitlines()]
    assert row["id"] == reply.id


def test_the_latest_failures_are_listed_first_up_to_the_limit(room, runner, flask):
    first, second, third = (room.answer(runner, "[[sandbox: block]]").id for _ in range(3))
    room.sql("UPDATE messages SET completed_at = completed_at + interval '1 minute' WHERE id = :id", id=first)
    for options, listed in (([], [first, third, second]), (["--limit", "2"], [first, third])):
        output = flask("failed", "--json", *options).output
        assert [json.loads(line)["id"] for line in output.splitlines()] == listed
    assert flask("failed", "--limit", "0").exit_code == 2


def test_a_failed_reply_is_generated_again_at_no_charge(room, runner, gemini, flask):
    gemini.behave(status=404)
    reply = room.answer(runner, "Hello")
    gemini.reset()
    assert "1 reply is queued again." in flask("retry", reply.id).output
    room.generate(runner, reply.id)
    assert room.read(reply.id).status == "completed"
    assert room.used() == 0


def test_all_failed_replies_are_queued_again(room, runner, flask, monkeypatch):
    monkeypatch.setattr(state, "BATCH", 1)
    for _ in range(3):
        room.answer(runner, "[[sandbox: block]]")
    assert "3 replies are queued again." in flask("retry", "--all").output
    assert "0 replies" in flask("retry", "--all").output


def test_of_more_failed_replies_than_a_batch_the_earliest_are_queued_first(room, runner, monkeypatch):
    monkeypatch.setattr(state, "BATCH", 1)
    first, second, third = (uuid.UUID(room.answer(runner, "[[sandbox: block]]").id) for _ in range(3))
    room.sql("UPDATE messages SET completed_at = completed_at - interval '1 minute' WHERE id = :id", id=third)
    now = utc_now()
    with room.app.app_context(), transaction() as tx:
        for way in ("indexscan", "bitmapscan"):  # an index on the time would give the same order by chance
            db.session.execute(text(f"SET LOCAL enable_{way} = off"))
        queued = [state.retry_failed(tx, None, until=now, now=now) for _ in range(3)]
    assert queued == [[third], [first], [second]]


def test_a_reply_that_fails_again_meanwhile_is_queued_once(room, runner, gemini):
    """The cause persists, and workers are quick."""
    gemini.behave(status=404)
    for _ in range(3):
        room.answer(runner, "Hello")
    with room.app.app_context():
        begun = utc_now()
        assert len(cli.retry_failed(None, until=begun, now=begun)) == 3
        room.sql(
            "UPDATE messages SET status = 'failed', error_code = 'model_rejected', completed_at = now()"
            " WHERE role = 'model'"
        )
        assert cli.retry_failed(None, until=begun, now=utc_now()) == []


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_users_retry_at_the_moment_of_an_operators_is_refused_and_costs_nothing(room, runner, is_claimed):
    reply_id = uuid.UUID(room.answer(runner, "[[sandbox: block]]").id)
    with ThreadPoolExecutor(1) as threads:
        with room.app.app_context(), transaction() as tx:
            assert state.retry_failed(tx, reply_id, until=utc_now(), now=utc_now()) == [reply_id]
            if is_claimed:  # by a worker, before the user's retry comes to write
                assert state.claim(reply_id, lease=timedelta(seconds=60))
            retried = threads.submit(room.person.post, f"{room.path}/messages/{reply_id}/retry")
            assert wait_until(somebody_waits_for_a_lock, seconds=10)
        answer = retried.result()
    assert (answer.status_code, answer.json["code"]) == (409, "reply_not_retryable")
    assert room.row(reply_id).status == ("generating" if is_claimed else "queued")
    assert room.used() == 1


def test_an_operators_retry_skips_a_reply_that_its_user_is_retrying(room, runner, flask):
    """The user's retry was charged. After an operator's retry on top, a cancel would not refund that prompt."""
    reply_id = room.answer(runner, "[[sandbox: block]]").id
    with ThreadPoolExecutor(1) as threads, room.app.app_context(), transaction():
        db.session.execute(text("SELECT FROM messages WHERE id = :id FOR UPDATE"), {"id": reply_id})
        assert "0 replies" in threads.submit(flask, "retry", "--all").result(10).output


def test_bad_arguments_are_refused_in_one_sentence(room, flask):
    reply_id = room.send("Not failed")
    for words in (["retry"], ["retry", "nonsense"], ["retry", str(uuid.uuid4())], ["retry", str(reply_id)]):
        result = flask(*words)
        assert result.exit_code != 0
        assert "Traceback" not in result.output
    assert flask("retry", str(reply_id), "--all").exit_code == 2


@pytest.fixture
def check(make_app, gemini):
    def ask(*words, timeout=30, **settings):
        app = make_app(gemini_api_endpoint=gemini.url, gemini_timeout=timeout, **settings)
        return app.test_cli_runner().invoke(args=["gemini", "check", *words])

    return ask


@pytest.mark.parametrize("words", [[], ["--stream"]])
def test_the_check_asks_gemini_one_question_of_our_own(check, gemini, words):
    gemini.clear_requests()
    done = check("--model", "gemini-3.5-pro", *words)
    assert done.exit_code == 0, done.output
    told = dict(line.split(": ", 1) for line in done.output.splitlines())
    assert (told["model"], told["finish_reason"]) == ("gemini-3.5-pro", "stop")
    assert 0 < float(told["seconds_to_first_piece"]) <= float(told["seconds"])
    assert int(told["total_tokens"]) == int(told["prompt_tokens"]) + int(told["output_tokens"])
    assert [turn["parts"] for turn in gemini.requests()[-1]["contents"]] == [[{"text": cli.QUESTION}]]


@pytest.mark.parametrize(("limit", "seen"), [(300, {"maxOutputTokens": 300}), (0, {})])
def test_the_check_sends_the_output_limit_unless_the_model_decides(check, gemini, limit, seen):
    assert check(gemini_max_output_tokens=limit).exit_code == 0
    assert gemini.requests()[-1]["generation_config"] == seen


def test_the_check_asks_nobody_without_a_key(make_app, gemini):
    gemini.clear_requests()
    app = make_app(gemini_api_endpoint=gemini.url, gemini_api_key="")
    done = app.test_cli_runner().invoke(args=["gemini", "check"])
    assert (done.exit_code, "GEMINI_API_KEY is not set" in done.output) == (1, True), done.output
    assert gemini.requests() == []


@pytest.mark.parametrize("words", [[], ["--stream"]])
def test_the_check_waits_for_a_piece_no_longer_than_for_the_whole_answer(check, monkeypatch, words):
    """As a worker does, where GEMINI_TIMEOUT is less than GEMINI_IDLE_TIMEOUT."""
    waits = []
    generate = Gemini.generate

    def note(self, turns, call, *, read_seconds, **others):
        waits.append(read_seconds)
        return generate(self, turns, call, read_seconds=read_seconds, **others)

    monkeypatch.setattr(Gemini, "generate", note)
    assert check(*words, timeout=20).exit_code == 0
    assert waits == [20]


@pytest.mark.parametrize(
    ("behaviour", "code", "words"),
    [
        ({"status": 403}, 1, "Google refuses GEMINI_API_KEY"),
        ({"status": 404}, 1, "Google does not know the model"),
        ({"quota": "day"}, 3, "the day's quota at Google is spent"),
        ({"status": 503}, 3, "HTTP 503"),
        ({"hang": True}, 3, "ModelTimeout"),
        ({"empty": True}, 3, "ReplyEmpty"),
    ],
)
def test_the_exit_code_of_the_check_says_whether_to_fix_something_or_to_wait(check, gemini, behaviour, code, words):
    gemini.behave(**behaviour)
    done = check(timeout=1 if "hang" in behaviour else 30)
    assert (done.exit_code, words in done.output) == (code, True), done.output


def test_a_model_that_google_does_not_know_is_logged_once(room, runner, gemini, caplog):
    gemini.behave(status=404)
    for _ in range(3):
        room.answer(runner, "Hello")
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == [
        "Gemini refused a call: HTTP 404: Google does not know the model; "
        "set GEMINI_MODEL or GEMINI_MODELS to one that it offers"
    ]
