"""Editing a prompt and retrying a completed reply: what is replaced is superseded, and nothing is lost."""

from collections import Counter
from datetime import timedelta
from importlib import import_module
from threading import Thread
from uuid import UUID

import pytest

from app.account.tasks import purge_chatroom
from app.core.broker import GENERATIONS
from app.core.clock import utc_now
from app.generation.queueing import GENERATE_REPLY
from app.generation.service import retry_failed
from sandbox.stack.processes import wait_until
from tests.generation.test_conversation import sent_to
from tests.people import all_at_once
from tests.problems import assert_problem
from tests.queues import waiting_tasks
from tests.rooms import Room, retry, somebody_waits_for_a_lock


def say(text):
    return f'[[sandbox: say="{text}"]]'


def edit(room, message_id, text="Edited", **headers):
    return room.person.post(f"{room.path}/messages/{message_id}/edit", json={"text": text}, headers=headers)


def listed(room, query=""):
    """Return each message's text and whether it is superseded, oldest first."""
    items = room.person.get(f"{room.path}/messages?limit=100{query}").json["items"]
    return [(item["text"], item["superseded"]) for item in reversed(items)]


@pytest.fixture
def talk(room, runner):
    """The replies of three exchanges."""
    return [room.answer(runner, say(text)) for text in ("One.", "Two.", "Three.")]


def test_an_edit_supersedes_the_prompt_and_all_turns_after_it(room, runner, gemini, talk):
    answer = edit(room, talk[1].in_reply_to, say("Another two."))
    assert answer.status_code == 202
    assert answer.json["message"]["superseded"] is answer.json["reply"]["superseded"] is False
    assert answer.headers["Location"] == f"{room.path}/messages/{answer.json['reply']['id']}"
    assert answer.headers["RateLimit-Remaining"] == "1"
    room.generate(runner, UUID(answer.json["reply"]["id"]))

    assert [text for _, text in sent_to(gemini)] == [say("One."), "One.", say("Another two.")]
    reply = room.read(answer.json["reply"]["id"])
    assert (reply.text, reply.context) == ("Another two.", {"messages_sent": 3, "messages_omitted": 0})
    current = [(text, False) for text in (say("One."), "One.", say("Another two."), "Another two.")]
    replaced = [(text, True) for text in (say("Two."), "Two.", say("Three."), "Three.")]
    assert listed(room) == listed(room, "&superseded=exclude") == current
    assert listed(room, "&superseded=include") == current[:2] + replaced + current[2:]
    page = room.person.get(room.path).json
    assert [message["text"] for message in page["messages"]] == [text for text, _ in current]


def test_an_edit_leaves_other_rooms_alone(room, runner, talk):
    other = Room(room.app, room.person, room.person.make_chatroom())
    other.answer(runner, say("Elsewhere."))
    assert edit(room, talk[0].in_reply_to).status_code == 202
    assert listed(other, "&superseded=include") == [(say("Elsewhere."), False), ("Elsewhere.", False)]


def test_a_completed_reply_can_be_retried_and_the_old_one_is_kept(room, runner, gemini, talk):
    answer = retry(room, talk[1].id)
    assert answer.status_code == 202
    new = answer.json
    assert (new["status"], new["in_reply_to"], new["superseded"]) == ("queued", talk[1].in_reply_to, False)
    assert new["id"] != talk[1].id
    assert answer.headers["Location"] == f"{room.path}/messages/{new['id']}"
    assert (GENERATE_REPLY, (new["id"],)) in waiting_tasks(room.app.extensions["redis"], GENERATIONS)
    room.generate(runner, UUID(new["id"]))

    assert [text for _, text in sent_to(gemini)] == [say("One."), "One.", say("Two.")]
    assert room.read(new["id"]).context == {"messages_sent": 3, "messages_omitted": 0}
    assert listed(room) == [(text, False) for text in (say("One."), "One.", say("Two."), "Two.")]
    assert room.read(talk[1].id).superseded
    assert room.read(talk[1].id).text == "Two."
    assert not room.read(talk[1].in_reply_to).superseded
    assert room.used() == 4
    assert [str(charge.reply_id) for charge in room.charges()][-1] == new["id"]

    again = retry(room, new["id"])  # and again, as often as the user likes
    assert again.status_code == 202
    assert room.read(new["id"]).superseded


def test_the_conversation_goes_on_after_the_new_reply(room, runner, gemini, talk):
    retry(room, talk[0].id)
    room.generate(runner, UUID(room.person.get(f"{room.path}/messages").json["items"][0]["id"]))
    room.answer(runner, "Next")
    assert [text for _, text in sent_to(gemini)] == [say("One."), "One.", "Next"]


def test_pages_have_no_gaps_where_turns_were_replaced(room, talk):
    edit(room, talk[2].in_reply_to)
    seen, cursor = [], ""
    while cursor is not None:
        page = room.person.get(f"{room.path}/messages?limit=1{cursor and '&cursor='}{cursor}").json
        seen += [item["text"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == [text for text, _ in reversed(listed(room))]


@pytest.mark.parametrize("query", ["superseded=yes", "superseded=", "superseded=include&superseded=include"])
def test_an_invalid_choice_of_superseded_messages_is_422(room, query):
    assert_problem(room.person.get(f"{room.path}/messages?{query}"), 422, "validation_error")


# What cannot be replaced


def test_neither_a_reply_nor_a_superseded_prompt_can_be_edited(room, talk):
    assert_problem(edit(room, talk[2].id), 409, "message_not_editable")
    assert edit(room, talk[2].in_reply_to).status_code == 202
    assert_problem(edit(room, talk[2].in_reply_to), 409, "message_not_editable")
    assert room.used() == 4


def test_a_superseded_reply_cannot_be_retried(room, runner, talk):
    failed = room.answer(runner, "[[sandbox: block]]")
    assert edit(room, talk[2].in_reply_to).status_code == 202
    for message_id in (talk[2].id, failed.id):
        assert_problem(retry(room, message_id), 409, "reply_not_retryable")
    room.sql("UPDATE messages SET completed_at = now() - interval '1 hour' WHERE status = 'failed'")
    with room.app.app_context():
        assert retry_failed(None, until=utc_now() - timedelta(minutes=1), now=utc_now()) == []


@pytest.mark.parametrize("status", ["queued", "generating"])
def test_nothing_is_replaced_while_a_reply_is_under_way(room, talk, status):
    under_way = room.send("Hello")
    if status == "generating":
        room.sql("UPDATE messages SET status = 'generating', lease_expires_at = now() WHERE status = 'queued'")
    assert_problem(edit(room, talk[0].in_reply_to), 409, "message_not_editable")
    assert_problem(retry(room, talk[0].id), 409, "reply_not_retryable")
    assert room.used() == 4
    assert not any(superseded for _, superseded in listed(room, "&superseded=include"))
    assert room.person.post(f"{room.path}/messages/{under_way}/cancel").status_code == 200
    assert edit(room, talk[0].in_reply_to).status_code == 202


def test_without_a_prompt_left_nothing_is_replaced(room, runner, talk):
    room.answer(runner, "Four")
    room.answer(runner, "Five")
    before = listed(room, "&superseded=include")
    for answer in (edit(room, talk[0].in_reply_to), retry(room, talk[0].id)):
        assert_problem(answer, 429, "daily_quota_exceeded")
    assert listed(room, "&superseded=include") == before


@pytest.mark.parametrize("body", [{}, {"text": " "}, {"text": "a\0b"}, {"text": 7}, {"text": "x", "more": 1}])
def test_an_invalid_edit_is_422(room, talk, body):
    answer = room.person.post(f"{room.path}/messages/{talk[0].in_reply_to}/edit", json=body)
    assert_problem(answer, 422, "validation_error")


def test_messages_of_other_rooms_are_not_found(room, talk):
    mine, room.path = room.path, room.person.make_chatroom()
    assert_problem(edit(room, talk[0].in_reply_to), 404, "not_found")
    assert_problem(retry(room, talk[0].id), 404, "not_found")
    room.path = mine
    assert not any(superseded for _, superseded in listed(room))


# Twenty at once


def test_one_of_twenty_edits_wins_and_spends_one_prompt(room, talk):
    answers = all_at_once([lambda: edit(room, talk[1].in_reply_to)] * 20)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 19}
    assert room.used() == 4
    assert len(listed(room)) == 4


def test_one_of_twenty_retries_of_a_completed_reply_wins(room, talk):
    answers = all_at_once([lambda: retry(room, talk[2].id)] * 20)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 19}
    assert room.used() == 4


def test_twenty_edits_under_one_key_count_as_one(room, runner, talk):
    answers = all_at_once([lambda: edit(room, talk[1].in_reply_to, **{"Idempotency-Key": "once"})] * 20)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert room.used() == 4
    other = edit(room, talk[0].in_reply_to, **{"Idempotency-Key": "once"})
    assert_problem(other, 422, "idempotency_key_reused")

    first = answers[0].json
    room.generate(runner, UUID(first["reply"]["id"]))
    assert retry(room, first["reply"]["id"]).status_code == 202
    assert edit(room, talk[1].in_reply_to, **{"Idempotency-Key": "once"}).json == first


def test_an_edit_that_waits_is_answered_with_the_reply(user, worker):
    path = user.make_chatroom()
    wait = {"Prefer": "wait=10"}
    first = user.post(f"{path}/message", json={"text": say("One.")}, headers=wait).json
    edited = f"{path}/messages/{first['message']['id']}/edit"
    answer = user.post(edited, json={"text": say("Two."), "stream": True}, headers=wait)
    assert (answer.status_code, answer.json["reply"]["text"]) == (200, "Two.")
    export = user.get("/user/me/export").json["chatrooms"][0]["messages"]
    assert [message["superseded"] for message in export] == [True, True, False, False]


@pytest.mark.parametrize("feature", ["messages", "generation"])
def test_a_change_and_the_purge_of_its_room_take_their_locks_in_one_order(room, talk, monkeypatch, feature):
    """The purge locks the room and then its messages."""
    module = import_module(f"app.{feature}.service")
    spend, ended = module.spend_prompt, []

    def purge():
        with room.app.app_context():
            ended.append(purge_chatroom())

    def spend_meanwhile(*args):
        deletion.start()
        assert wait_until(somebody_waits_for_a_lock, seconds=10)
        return spend(*args)

    deletion = Thread(target=lambda: (room.person.delete(room.path), purge()))
    monkeypatch.setattr(module, "spend_prompt", spend_meanwhile)
    changed = edit(room, talk[0].in_reply_to) if feature == "messages" else retry(room, talk[0].id)
    deletion.join(10)
    assert changed.status_code == 202
    assert ended == [True]
