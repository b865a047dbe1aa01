"""Answers as a real model gives them: long, cut, and based on a part of the room."""

import json

import pytest

from tests.event_streams import follow, names, text_of

TEXT = "# Über 東京 𝄞\n\n```python\nprint('👩\u200d👩\u200d👧')\n```\n\nעברית \u2028 | a \x85 b\r\n* done\\n"


@pytest.mark.parametrize("gemini_timeout", [1])
def test_a_streamed_answer_that_takes_longer_than_an_attempt_is_kept(room, runner, gemini):
    """The worker must not throw it away in mid-stream, ask for it again and refund its prompt."""
    gemini.clear_requests()
    reply_id = room.send("[[sandbox: words=100 pace=0.1]] Tell me all", stream=True)
    room.generate(runner, reply_id)
    reply = room.read(reply_id)
    assert (reply.status, reply.finish_reason, reply.error) == ("completed", "time_limit", None)
    assert 3 <= len(reply.text.split()) < 100
    assert gemini.stats()["calls"] == 1
    assert room.used() == 1
    events = list(follow(room, reply_id))
    assert text_of(events) == reply.text
    assert "reset" not in names(events)


def test_an_answer_that_is_cut_at_the_limit_says_so(room, runner):
    reply = room.answer(runner, '[[sandbox: finish=MAX_TOKENS say="As far as"]]')
    assert (reply.status, reply.text, reply.finish_reason) == ("completed", "As far as", "max_tokens")
    assert room.used() == 1


def test_an_answer_that_came_to_its_end_says_so(room, runner):
    reply = room.answer(runner, "Hello")
    assert reply.finish_reason == "stop"
    assert reply.usage["total_tokens"] == reply.usage["prompt_tokens"] + reply.usage["output_tokens"]
    prompt = room.person.get(f"{room.path}/messages").json["items"][1]
    assert (prompt["finish_reason"], prompt["usage"], prompt["context"]) == (None, None, None)


def test_a_reply_whose_whole_allowance_goes_into_thinking_fails_and_is_refunded(room, runner):
    reply = room.answer(runner, "[[sandbox: finish=MAX_TOKENS]]")
    assert reply.error == {
        "code": "output_limit",
        "message": "Gemini reached its output limit while it was still thinking. The prompt was refunded.",
    }
    assert (reply.finish_reason, room.used()) == (None, 0)


def test_a_reply_shows_how_much_of_the_room_was_sent(room, runner):
    assert room.answer(runner, "One").context == {"messages_sent": 1, "messages_omitted": 0}
    assert room.answer(runner, "Two").context == {"messages_sent": 3, "messages_omitted": 0}
    room.answer(runner, "[[sandbox: status=403]]")  # has no answer, so its prompt is left out as well
    assert room.answer(runner, "Three").context == {"messages_sent": 5, "messages_omitted": 2}


def test_the_beginning_of_a_long_room_is_left_out(room, runner):
    for letter in "abcd":  # 16,000 characters an exchange, of which 48,000 may be sent
        room.answer(runner, f"[[sandbox: say={json.dumps(letter * 7_950)}]]")
    assert room.answer(runner, "And now?").context == {"messages_sent": 7, "messages_omitted": 2}


def test_the_stream_tells_how_much_of_the_room_is_sent_before_the_first_piece(room, runner):
    room.answer(runner, "One")
    reply_id = room.send("Two", stream=True)
    stream = follow(room, reply_id)
    next(stream)
    thread = room.generate_meanwhile(runner, reply_id)
    events = list(stream)
    thread.join()
    assert names(events)[:3] == ["status", "context", "delta"]
    assert names(events).count("context") == 1
    assert events[1].data == {"messages_sent": 3, "messages_omitted": 0}


def test_a_requeued_reply_shows_no_context_of_its_last_attempt(room, runner):
    reply = room.answer(runner, "[[sandbox: status=403]]")
    assert reply.context == {"messages_sent": 1, "messages_omitted": 0}
    assert room.person.post(f"{room.path}/messages/{reply.id}/retry").json["context"] is None


@pytest.mark.parametrize("streamed", [False, True])
def test_every_character_passes_unchanged(room, runner, streamed):
    reply_id = room.send(f"[[sandbox: say={json.dumps(TEXT)}]]", stream=streamed)
    room.generate(runner, reply_id)
    reply = room.read(reply_id)
    assert reply.text == TEXT
    events = list(follow(room, reply_id))
    assert text_of(events) == TEXT
    for chars in range(len(TEXT)):
        [rest] = [event for event in follow(room, reply_id, f"1:{chars}") if event.name == "delta"]
        assert rest.data["text"] == TEXT[chars:]
    exported = room.person.get("/user/me/export").json["chatrooms"][0]["messages"][1]
    assert (exported["text"], exported["finish_reason"]) == (TEXT, "stop")
