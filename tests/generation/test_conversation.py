"""What Gemini is sent of a room."""

from uuid import UUID

from app.generation.conversation import MAX_PAIRS, MAX_REPLIES, conversation
from tests.generation.test_long_queues import FILL


def sent_to(gemini):
    """The last conversation that the stand-in saw, as (role, text) pairs."""
    contents = gemini.requests()[-1]["contents"]
    return [(turn["role"], "".join(part["text"] for part in turn["parts"])) for turn in contents]


def test_gemini_sees_the_turns_oldest_first_and_the_instruction(room, runner, gemini):
    room.answer(runner, '[[sandbox: say="First answer"]]')
    room.answer(runner, "And now?")
    turns = sent_to(gemini)
    assert [role for role, _ in turns] == ["user", "model", "user"]
    assert turns[1] == ("model", "First answer")
    assert turns[2] == ("user", "And now?")
    assert "Be brief." in str(gemini.requests()[-1]["system_instruction"])


def test_failed_turns_are_left_out_with_their_prompts(room, runner, gemini):
    room.answer(runner, '[[sandbox: say="Fine"]]')
    room.answer(runner, "[[sandbox: block]]")
    room.sql("UPDATE messages SET text = 'Kept from before a retry' WHERE status = 'failed'")
    room.answer(runner, "Third")
    assert [text for _, text in sent_to(gemini)] == ['[[sandbox: say="Fine"]]', "Fine", "Third"]


def test_other_rooms_are_not_seen(room, runner, gemini):
    room.answer(runner, "In the first room")
    room.path = room.person.make_chatroom()
    room.answer(runner, "In the second")
    assert [text for _, text in sent_to(gemini)] == ["In the second"]


def test_the_newest_whole_turns_that_fit_are_kept(room, runner):
    for index in range(4):
        room.answer(runner, f'[[sandbox: say="{index}{"x" * 99}"]]')
    position = room.row(room.send("Last")).position
    with room.app.app_context():
        chatroom_id = UUID(room.path.rsplit("/", 1)[1])
        pair = len('[[sandbox: say="0"]]') + 2 * 99 + 1

        def kept(max_chars):
            turns = conversation(chatroom_id, position, "Last", max_chars=max_chars)
            assert [turn.role for turn in turns] == ["user", "model"] * (len(turns) // 2) + ["user"]
            return [turn.text[0] for turn in turns if turn.role == "model"]

        assert kept(4) == []
        assert kept(4 + 2 * pair) == ["2", "3"]
        assert kept(4 + 2 * pair - 1) == ["3"]
        assert kept(100_000) == ["0", "1", "2", "3"]


def test_a_bounded_number_of_the_newest_replies_is_searched(room):
    room.sql(FILL, first=1, last=MAX_REPLIES + 1, status="completed")
    room.sql("UPDATE messages SET text = CAST(position AS text)")
    last = 2 * MAX_REPLIES + 3  # the position of the newest reply

    def sent():
        with room.app.app_context():
            turns = conversation(UUID(room.path.rsplit("/", 1)[1]), last + 2, "Last", max_chars=48_000)
        return [int(turn.text) for turn in turns if turn.role == "model"]

    assert sent() == list(range(last - 2 * MAX_PAIRS + 2, last + 1, 2))
    room.sql("UPDATE messages SET status = 'failed', error_code = 'empty_reply' WHERE role = 'model' AND position > 5")
    assert sent() == [5], "the one at 3 is beyond the bound"


def test_the_budget_of_tokens_follows_the_language_of_the_room(room, runner):
    """The same characters are more tokens in Chinese than in English, so fewer turns of such a room are sent."""
    for _ in range(4):
        room.answer(runner, f"[[sandbox: say={'x' * 400}]]")
    position = room.row(room.send("Last")).position
    with room.app.app_context():
        chatroom_id = UUID(room.path.rsplit("/", 1)[1])

        def sent(max_tokens):
            return len(conversation(chatroom_id, position, "Last", max_chars=48_000, max_tokens=max_tokens))

        assert sent(None) == 9
        pair = (2 * 400 + len("[[sandbox: say=]]")) / 4  # the stand-in counts four characters a token
        assert sent(round(2 * pair) + 2) == 5
        room.sql("UPDATE messages SET output_tokens = 400 WHERE role = 'model'")  # one character a token
        assert sent(round(2 * pair) + 2) == 1
        assert sent(round(8 * pair) + 8) == 5
        room.sql("UPDATE messages SET output_tokens = NULL")  # as before token counts were stored
        assert sent(1) == 9


def test_the_kept_part_of_a_canceled_reply_is_sent_and_an_empty_one_is_left_out(room, runner, gemini):
    for prompt in ("Kept", "Empty"):
        room.send(prompt)
    room.sql(
        "UPDATE messages m SET status = 'canceled', completed_at = now(),"
        " text = CASE WHEN p.text = 'Kept' THEN 'A part' END FROM messages p WHERE p.id = m.in_reply_to"
    )
    room.answer(runner, "Next")
    assert [text for _, text in sent_to(gemini)] == ["Kept", "A part", "Next"]
