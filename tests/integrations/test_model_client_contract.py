"""What every model client owes the worker, tested with both SDKs, whole and streamed."""

import json
import socket
import threading
from typing import Any

import pytest

from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import (
    USERS_INSTRUCTION,
    Answer,
    Chunk,
    FinishReason,
    OutputLimit,
    ReplyBlocked,
    TokenUsage,
    Turn,
    read_answer,
)
from tests.integrations.scripted import JSON, SSE, says, serving

CONVERSATION = (Turn("user", "What is DNS?"), Turn("model", "A phone book."), Turn("user", "And DHCP?"))

both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def say(text: str) -> str:
    """Return a prompt that is answered with exactly this text."""
    return f"[[sandbox: say={json.dumps(text)}]]"


# What is sent


@both_ways
def test_the_conversation_is_sent_as_it_was_said(model, gemini, streamed):
    model.ask(*CONVERSATION, streamed=streamed)

    contents = gemini.requests()[-1]["contents"]
    assert [(content["role"], content["parts"]) for content in contents] == [
        ("user", [{"text": "What is DNS?"}]),
        ("model", [{"text": "A phone book."}]),
        ("user", [{"text": "And DHCP?"}]),
    ]


@both_ways
@pytest.mark.parametrize(("instruction", "seen"), [("Rhyme.", "Rhyme."), ("", None)])
def test_the_system_instruction_is_sent_when_there_is_one(make_asker, gemini, streamed, instruction, seen):
    make_asker(system_instruction=instruction).ask("Hello", streamed=streamed)

    assert gemini.requests()[-1]["system_instruction"] == seen


@both_ways
def test_a_users_instruction_is_a_part_of_its_own_and_a_model_may_be_chosen(make_asker, gemini, streamed):
    chosen = {"model": "gemini-3.5-pro", "instruction": "Rhyme."}
    outcome = make_asker(system_instruction="Be brief.").ask("Hello", streamed=streamed, **chosen)
    assert outcome.answer.model == "gemini-3.5-pro"
    assert gemini.requests()[-1]["system_parts"] == ["Be brief.", USERS_INSTRUCTION + "Rhyme."]


@both_ways
@pytest.mark.parametrize(
    ("config", "seen"),
    [
        ({"max_output_tokens": 300, "temperature": 0.5}, {"maxOutputTokens": 300, "temperature": 0.5}),
        ({"max_output_tokens": None, "temperature": 0.0}, {"temperature": 0}),
        (None, {}),
    ],
)
def test_the_generation_config_is_sent_without_what_is_left_to_the_model(make_asker, gemini, streamed, config, seen):
    make_asker(generation_config=config).ask("Hello", streamed=streamed)

    assert gemini.requests()[-1]["generation_config"] == seen


@both_ways
def test_headers_are_sent_with_the_call(model, gemini, streamed):
    sent = {"x-request-id": "a-request-id", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    model.ask("Hello", streamed=streamed, headers=sent)
    assert sent.items() <= gemini.requests()[-1]["headers"].items()

    model.ask("Hello", streamed=streamed)
    assert not sent.keys() & gemini.requests()[-1]["headers"].keys()


@both_ways
def test_google_is_given_no_deadline(model, gemini, streamed):
    """Google refuses one below ten seconds, and it would be one for the whole answer, however fast that flows."""
    assert model.ask("Hello", streamed=streamed, seconds=2).answer
    assert "x-server-timeout" not in gemini.requests()[-1]["headers"]


@both_ways
def test_the_model_is_the_one_that_was_named(make_asker, gemini, streamed):
    outcome = make_asker(model="gemini-3.5-pro").ask("Hello", streamed=streamed)

    assert gemini.requests()[-1]["model"] == "gemini-3.5-pro"
    assert outcome.answer.model == "gemini-3.5-pro"


def test_a_slash_at_the_end_of_the_endpoint_does_no_harm(make_asker, gemini):
    assert make_asker(endpoint=f"{gemini.url}/").ask("Hello").answer


# What comes back


@both_ways
def test_an_answer_has_text_model_and_tokens(model, streamed):
    outcome = model.ask(*CONVERSATION[:2], "[[sandbox: say=abcdefghi]]", streamed=streamed)

    sent = len("What is DNS?" + "A phone book." + "[[sandbox: say=abcdefghi]]" + "Be brief.")
    usage = TokenUsage(prompt_tokens=-(-sent // 4), output_tokens=3, total_tokens=-(-sent // 4) + 3)
    assert outcome.answer == Answer("abcdefghi", "gemini-3.5-flash", FinishReason.STOP, usage)


@both_ways
@pytest.mark.parametrize(
    "text",
    ["ß é 東京 𝄞 👩‍👩‍👧 עברית", "a\u2028b\u2029c\u0085d", "one\n\n  two\r\n three", '" \\ {[,]} data: x', "x" * 70_000],
)
def test_every_character_comes_through(model, streamed, text):
    outcome = model.ask(say(text), streamed=streamed)

    assert outcome.answer.text == text
    assert "".join(outcome.pieces) == (text if streamed else "")


@pytest.mark.parametrize("kind", [b"text/html", b"application/octet-stream", b"application/json; charset=nonsense"])
def test_a_stream_is_read_as_json_in_utf_8_whatever_its_content_type(make_asker, sdk, kind):
    response = '{"candidates": [{"content": {"parts": [{"text": "Grüße"}]}, "finishReason": %s}]}'
    text = response % 1 if sdk == "google-generativeai" else response % '"STOP"'
    body = f"[{text}]" if sdk == "google-generativeai" else f"data: {text}\r\n\r\n"
    with serving(says(SSE.replace(b"text/event-stream", kind), body.encode())) as url:
        assert make_asker(endpoint=url).ask("Hello", streamed=True).answer.text == "Grüße"


@pytest.mark.parametrize("head", [SSE, SSE.replace(b"HTTP/1.1", b"HTTP/1.0")], ids=["1.1", "1.0"])
def test_pieces_of_a_stream_that_is_not_chunked_come_as_they_are_written_too(make_asker, sdk, head):
    """A gateway may send a stream that way."""
    first_is_here = threading.Event()
    first, last = stream_of(sdk, "One ", "two.")

    def script(connection: socket.socket) -> None:
        connection.sendall(head + first)
        if first_is_here.wait(20):
            connection.sendall(last)

    with serving(script) as url:
        outcome = make_asker(endpoint=url).ask(
            "Hello", streamed=True, seconds=30, on_piece=lambda _: first_is_here.set()
        )
    assert outcome.answer.text == "One two."


@pytest.mark.parametrize("falls_silent", [False, True])
def test_a_stream_whose_connection_breaks_after_the_finish_reason_is_a_whole_answer(make_asker, sdk, falls_silent):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in stream_of(sdk, "All ", "of it."))

    def script(connection: socket.socket) -> None:
        connection.sendall(SSE.replace(b"Connection: close", b"Transfer-Encoding: chunked") + chunks)
        if falls_silent:
            connection.recv(1)

    with serving(script) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=True, seconds=2, call=BoundedCall(30))
    assert (outcome.answer.text, outcome.answer.finish_reason) == ("All of it.", FinishReason.STOP)


def stream_of(sdk: str, *texts: str) -> list[bytes]:
    """Return what Google streams for these pieces, the last with the finish reason, without the end of the array."""
    candidates: list[dict[str, Any]] = [{"content": {"parts": [{"text": text}]}} for text in texts]
    candidates[-1]["finishReason"] = 1 if sdk == "google-generativeai" else "STOP"
    responses = [json.dumps({"candidates": [candidate]}).encode() for candidate in candidates]
    if sdk == "google-generativeai":
        return [b"[" + responses[0], *(b",\r\n" + response for response in responses[1:])]
    return [b"data: " + response + b"\r\n\r\n" for response in responses]


@both_ways
def test_nul_which_postgresql_cannot_store_is_left_out(model, streamed):
    outcome = model.ask(say("no\0thing \0 here"), streamed=streamed)

    assert outcome.answer.text == "nothing  here"
    assert "\x00" not in "".join(outcome.pieces)


def test_half_of_a_surrogate_pair_which_nothing_can_encode_is_replaced():
    with BoundedCall(30) as call:
        answer = read_answer(iter([Chunk("Hello \ud83d", "STOP", "", "", TokenUsage())]), call, "a-model", None)
    assert answer.text == "Hello ?"


def test_whole_and_streamed_answers_are_the_same(model):
    whole, streamed = model.ask(*CONVERSATION), model.ask(*CONVERSATION, streamed=True)

    assert streamed.answer == whole.answer
    assert "".join(streamed.pieces) == whole.answer.text
    assert len(streamed.pieces) > 20


def test_pieces_come_as_they_are_written(model, gemini):
    in_flight = []
    first = threading.Event()

    def look(_: str) -> None:
        if not first.is_set():
            first.set()
            in_flight.append(gemini.stats()["in_flight"])

    outcome = model.ask('[[sandbox: pace=0.05 say="one two three four five six"]]', streamed=True, on_piece=look)

    assert in_flight == [1]  # the first piece was here before the last was sent
    assert [piece.strip() for piece in outcome.pieces] == ["one", "two", "three", "four", "five", "six"]


@both_ways
def test_an_answer_has_its_thinking_and_cached_tokens_and_the_model_that_answered(model, streamed):
    """One SDK has no field for thinking tokens; its client takes what is left of the total."""
    prompt = "[[sandbox: say=Here thinking_tokens=25 cached_tokens=8 model_version=gemini-3.5-flash-002]]"
    answer = model.ask(prompt, streamed=streamed).answer

    sent = -(-len(prompt + "Be brief.") // 4)
    usage = TokenUsage(sent, output_tokens=1, thinking_tokens=25, cached_tokens=8, total_tokens=sent + 26)
    assert answer == Answer("Here", "gemini-3.5-flash-002", FinishReason.STOP, usage)


def test_a_long_stream_comes_whole(model):
    outcome = model.ask("[[sandbox: words=1500]]", streamed=True)

    assert len(outcome.answer.text.split()) == 1500
    assert "".join(outcome.pieces) == outcome.answer.text


def test_a_stream_of_one_long_piece_is_read_quickly(model):
    """google-api-core would take minutes to parse this one, and no bound of the call would end that."""
    text = "x" * 2_000_000
    outcome = model.ask(say(text), streamed=True, seconds=60)

    assert outcome.answer.text == text
    assert outcome.seconds < 60


@both_ways
def test_unknown_fields_are_ignored(model, streamed):
    outcome = model.ask("[[sandbox: unknown_fields say=fine]]", streamed=streamed)

    assert outcome.answer.text == "fine"


@both_ways
def test_an_answer_with_an_unknown_finish_reason_is_an_answer(model, streamed):
    outcome = model.ask('[[sandbox: finish=UNEXPECTED_TOOL_CALL say="The answer is 42."]]', streamed=streamed)

    assert (outcome.answer.text, outcome.answer.finish_reason) == ("The answer is 42.", FinishReason.STOP)


@pytest.mark.filterwarnings("ignore:.*is not a valid BlockedReason")
def test_a_prompt_that_is_blocked_for_an_unknown_reason_is_blocked(make_asker, sdk):
    reason = b"99" if sdk == "google-generativeai" else b'"TOMORROW"'  # each SDK asks Google for its own form
    with serving(says(JSON, b'{"promptFeedback": {"blockReason": %b}}' % reason)) as url:
        assert type(make_asker(endpoint=url).ask("Hello").error) is ReplyBlocked


@both_ways
def test_a_text_cut_short_by_the_token_limit_is_an_answer(model, streamed):
    outcome = model.ask('[[sandbox: finish=MAX_TOKENS say="as far as"]]', streamed=streamed)

    assert (outcome.answer.text, outcome.answer.finish_reason) == ("as far as", FinishReason.MAX_TOKENS)


@both_ways
def test_thoughts_code_and_its_results_are_no_part_of_the_text(model, streamed):
    outcome = model.ask('[[sandbox: extras empty_end say="The answer is 42."]]', streamed=streamed)

    assert (outcome.answer.text, outcome.answer.finish_reason) == ("The answer is 42.", FinishReason.STOP)


@both_ways
def test_a_model_may_think_first(model, streamed):
    outcome = model.ask("[[sandbox: think=0.6 thinking_tokens=700 say=Yes]]", streamed=streamed)

    assert outcome.answer.text == "Yes"
    assert outcome.answer.usage.thinking_tokens == 700
    assert outcome.seconds > 0.5


@both_ways
def test_thinking_counts_against_the_output_limit(make_asker, streamed):
    asker = make_asker(generation_config={"max_output_tokens": 100})

    cut = asker.ask("[[sandbox: thinking_tokens=90 words=200]]", streamed=streamed).answer
    assert (len(cut.text), cut.finish_reason) == (40, FinishReason.MAX_TOKENS)
    assert isinstance(asker.ask("[[sandbox: thinking_tokens=100]]", streamed=streamed).error, OutputLimit)
