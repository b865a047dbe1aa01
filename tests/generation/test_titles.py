"""Names for chatrooms that nobody has named."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from app.core.clock import utc_now
from app.core.db import DatabaseUnavailable, db
from app.core.transactions import transaction
from app.generation import titles
from app.generation.titles import (
    PROMPT_CHARS,
    cleaned,
    configured_titler,
    shortened,
    title_chatroom,
    untitled_chatrooms,
)
from tests.queues import waiting_tasks


@pytest.fixture
def untitled(room):
    """The room, with no title."""
    answer = room.person.post("/chatroom", json={})
    assert (answer.status_code, answer.json["title"], answer.json["title_source"]) == (201, None, None)
    room.path = f"/chatroom/{answer.json['id']}"
    return room


def id_of(room):
    return UUID(room.path.rsplit("/", 1)[1])


def name(room):
    with room.app.app_context():
        title_chatroom(id_of(room), configured_titler(), now=utc_now())
    found = room.person.get(room.path).json
    return found["title"], found["title_source"]


def tasks_of(room):
    return [args for task, args in waiting_tasks(room.app.extensions["redis"], "chores") if task == "chatrooms.name"]


def test_a_room_gets_a_title_after_its_first_completed_reply(untitled, runner, gemini):
    untitled.answer(runner, "[[sandbox: block]]")
    assert name(untitled) == (None, None)
    untitled.answer(runner, '[[sandbox: say="“About **kings**”"]]')
    calls = len(gemini.requests())
    title, source = name(untitled)
    assert source == "generated"
    assert title == "About **kings**"
    assert gemini.requests()[calls]["generation_config"] == {"maxOutputTokens": titles.MAX_OUTPUT_TOKENS}
    assert untitled.person.get("/chatroom").json["items"][0]["title"] == title
    assert untitled.used() == 2


def test_a_model_that_thinks_first_has_tokens_left_for_the_title(untitled, runner, gemini):
    untitled.answer(runner, "Tell me of kings")
    gemini.behave(say="About kings", thinking_tokens=500)
    assert name(untitled) == ("About kings", "generated")


def test_a_title_that_thinking_cut_short_is_not_taken(untitled, runner, gemini):
    untitled.answer(runner, "Tell me of the kings of France")
    gemini.behave(say="The history of the kings of France", thinking_tokens=titles.MAX_OUTPUT_TOKENS - 4)
    assert name(untitled) == ("Tell me of the kings of France", "generated")


@pytest.mark.parametrize("behaviour", ["status=503", "block", "status=400", "hang"])
def test_without_an_answer_the_prompts_first_words_are_the_title(untitled, runner, gemini, behaviour, monkeypatch):
    monkeypatch.setattr(titles, "CALL_SECONDS", 0.3)
    untitled.answer(runner, "How do I bake bread at home without an oven, and without yeast, please?")
    gemini.behave(**{behaviour.partition("=")[0]: int(behaviour.partition("=")[2] or 1) if "=" in behaviour else True})
    assert name(untitled) == ("How do I bake bread at home without an oven, and without…", "generated")


def test_without_auto_title_nobody_is_asked(make_app, make_redis_url, make_user, make_runner_for, gemini):
    app = make_app(redis_url=make_redis_url(), auto_title=False)
    person = make_user()
    person.client = app.test_client()
    room = make_runner_for(app, person)
    room.path = f"/chatroom/{person.post('/chatroom', json={'title': None}).json['id']}"
    room.answer(room.runner, "Just these words")
    calls = len(gemini.requests())
    assert name(room) == ("Just these words", "generated")
    assert len(gemini.requests()) == calls


def test_a_title_by_the_user_wins_even_while_the_task_runs(untitled, runner, gemini, monkeypatch):
    untitled.answer(runner, "Hello")
    asked = titles.request_title

    def ask_while_a_person_names_it(*args):
        title = asked(*args)
        assert untitled.person.patch(untitled.path, json={"title": "Mine"}).status_code == 200
        return title

    monkeypatch.setattr(titles, "request_title", ask_while_a_person_names_it)
    assert name(untitled) == ("Mine", "user")
    monkeypatch.undo()
    assert name(untitled) == ("Mine", "user")


def test_a_title_never_dates_back_a_change_made_while_gemini_was_asked(untitled, runner, gemini, monkeypatch):
    untitled.answer(runner, "Hello")
    asked, changes = titles.request_title, []

    def ask_while_a_person_pins_it(*args):
        changes.append(untitled.person.patch(untitled.path, json={"pinned": True}).json)
        return asked(*args)

    monkeypatch.setattr(titles, "request_title", ask_while_a_person_pins_it)
    assert name(untitled)[1] == "generated"
    assert untitled.person.get(untitled.path).json["updated_at"] == changes[0]["updated_at"]


def test_a_room_is_named_once(untitled, runner, gemini):
    untitled.answer(runner, '[[sandbox: say="First"]]')
    assert name(untitled)[0] == "First"
    calls = len(gemini.requests())
    assert name(untitled)[0] == "First"
    assert len(gemini.requests()) == calls


@pytest.mark.parametrize("what", ["room", "account"])
def test_gemini_gets_nothing_of_a_deleted_room_or_account(untitled, runner, gemini, what):
    """Its task was queued before the deletion, whose own task has yet to purge the rows."""
    untitled.answer(runner, "Hello")
    assert untitled.person.delete(untitled.path if what == "room" else "/user/me").status_code == 204
    gemini.clear_requests()
    with untitled.app.app_context():
        title_chatroom(id_of(untitled), configured_titler(), now=utc_now())
    assert gemini.requests() == []


def test_only_a_completed_reply_of_an_untitled_room_queues_the_task(untitled, room, runner):
    untitled.answer(runner, "[[sandbox: block]]")
    assert tasks_of(untitled) == []
    untitled.answer(runner, "Hello")
    assert len(tasks_of(untitled)) == 1
    untitled.path = untitled.person.make_chatroom("Named")
    untitled.answer(runner, "Hello")
    assert len(tasks_of(untitled)) == 1


def test_a_task_that_was_lost_is_found_again(untitled, runner):
    untitled.answer(runner, "Hello")
    with untitled.app.app_context():
        now = utc_now()
        assert untitled_chatrooms(now) == []
        assert untitled_chatrooms(now + timedelta(seconds=61)) == [id_of(untitled)]
        assert untitled_chatrooms(now + timedelta(days=2)) == []
    name(untitled)
    with untitled.app.app_context():
        assert untitled_chatrooms(now + timedelta(seconds=61)) == []


def test_gemini_is_not_asked_for_a_title_while_postgresql_is_read_only(untitled, runner):
    untitled.answer(runner, "Hello")
    with untitled.app.app_context():
        db.session.execute(text("SET default_transaction_read_only = on"))
        with pytest.raises(DatabaseUnavailable), transaction():
            untitled_chatrooms(utc_now() + timedelta(seconds=61))


def test_a_room_whose_only_answer_is_superseded_waits_for_another(untitled, runner):
    prompt_id = untitled.answer(runner, "Hello").in_reply_to
    assert untitled.person.post(f"{untitled.path}/messages/{prompt_id}/edit", json={"text": "Hi"}).status_code == 202
    with untitled.app.app_context():
        assert untitled_chatrooms(utc_now() + timedelta(seconds=61)) == []


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Baking bread", "Baking bread"),
        ('\n\n  ## "Baking\tbread"\nMore', "Baking bread"),
        ("**Getting Started With C#**", "Getting Started With C#"),
        ('What is "self"', 'What is "self"'),
        ('"Romeo" and "Juliet"', '"Romeo" and "Juliet"'),
        ('# **"Don\'t panic"**', "Don't panic"),
        ("„**Brot** backen“", "**Brot** backen"),
        ("“”\n**", ""),
        ("面包" * 60, ("面包" * 60)[:80]),
        ("word " * 40, "word " * 15 + "word…"),
    ],
)
def test_a_title_is_one_clean_line(answer, title):
    assert cleaned(answer) == title


@pytest.mark.parametrize("prompt", ["a" * 100, "面包怎么做" * 30, "one two", "x " * 80, "\u200b"])
def test_first_words_are_short_and_never_empty(prompt):
    assert 1 <= len(shortened(prompt, PROMPT_CHARS)) <= 60


def test_first_words_of_a_language_without_spaces_are_not_one_word():
    prompt = "Python " + "里怎么读取文件" * 20
    assert shortened(prompt, PROMPT_CHARS) == prompt[:60]
