"""What every client of the model owes the worker, held against both, whole and streamed."""

import json
import threading

import pytest

from app.integrations.gemini.client import (
    USERS_INSTRUCTION,
    Answer,
    FinishReason,
    ModelError,
    ModelRejected,
    ModelUnavailable,
    OutputLimit,
    ReplyBlocked,
    ReplyEmpty,
    Turn,
    Usage,
)
from sandbox.stack.processes import free_port
from tests.integrations.scripted import JSON, says, serving

KEY_REFUSED = "Google refuses GEMINI_API_KEY; set a valid key"
MODEL_UNKNOWN = "HTTP 404: Google does not know the model; name one that it offers in GEMINI_MODEL or GEMINI_MODELS"
CONVERSATION = (Turn("user", "What is DNS?"), Turn("model", "A phone book."), Turn("user", "And DHCP?"))

both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def say(text: str) -> str:
    """A prompt that is answered with exactly this text."""
    return f"[[sandbox: say={json.dumps(text)}]]"


# What is sent


@both_ways
def test_the_conversation_goes_along_as_it_was_said(model, gemini, streamed):
    model.ask(*CONVERSATION, streamed=streamed)

    contents = gemini.requests()[-1]["contents"]
    assert [(content["role"], content["parts"]) for content in contents] == [
        ("user", [{"text": "What is DNS?"}]),
        ("model", [{"text": "A phone book."}]),
        ("user", [{"text": "And DHCP?"}]),
    ]


@both_ways
@pytest.mark.parametrize(("instruction", "seen"), [("Rhyme.", "Rhyme."), ("", None)])
def test_the_system_instruction_goes_along_when_there_is_one(make_asker, gemini, streamed, instruction, seen):
    make_asker(system_instruction=instruction).ask("Hello", streamed=streamed)

    assert gemini.requests()[-1]["system_instruction"] == seen


@both_ways
def test_a_users_instruction_is_a_part_of_its_own_and_a_model_may_be_chosen(make_asker, gemini, streamed):
    chosen = {"model": "gemini-3.5-pro", "instruction": "Rhyme."}
    outcome = make_asker(system_instruction="Be brief.").ask("Hello", streamed=streamed, **chosen)
    assert outcome.answer.model == "gemini-3.5-pro"
    assert gemini.requests()[-1]["system_parts"] == ["Be brief.", USERS_INSTRUCTION + "Rhyme."]


@both_ways
@pytest.mark.parametrize(("limit", "seen"), [(300, {"maxOutputTokens": 300}), (0, {})])
def test_the_most_that_may_be_written_goes_along_when_there_is_one(make_asker, gemini, streamed, limit, seen):
    make_asker(max_output_tokens=limit).ask("Hello", streamed=streamed)

    assert gemini.requests()[-1]["generation_config"] == seen


@both_ways
def test_headers_go_along(model, gemini, streamed):
    sent = {"x-request-id": "a-request-id", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    model.ask("Hello", streamed=streamed, headers=sent)
    assert sent.items() <= gemini.requests()[-1]["headers"].items()

    model.ask("Hello", streamed=streamed)
    assert not sent.keys() & gemini.requests()[-1]["headers"].keys()


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
    usage = Usage(prompt_tokens=-(-sent // 4), output_tokens=3, total_tokens=-(-sent // 4) + 3)
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


@both_ways
def test_nul_which_postgresql_cannot_store_is_left_out(model, streamed):
    outcome = model.ask(say("no\0thing \0 here"), streamed=streamed)

    assert outcome.answer.text == "nothing  here"
    assert "\x00" not in "".join(outcome.pieces)


def test_whole_and_streamed_are_the_same(model):
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
def test_thinking_and_cached_tokens_are_told_and_the_model_that_answered(model, streamed):
    """One of the SDKs has no field for thinking, and takes what is left of the total."""
    prompt = "[[sandbox: say=Here thinking_tokens=25 cached_tokens=8 model_version=gemini-3.5-flash-002]]"
    answer = model.ask(prompt, streamed=streamed).answer

    sent = -(-len(prompt + "Be brief.") // 4)
    usage = Usage(sent, output_tokens=1, thinking_tokens=25, cached_tokens=8, total_tokens=sent + 26)
    assert answer == Answer("Here", "gemini-3.5-flash-002", FinishReason.STOP, usage)


def test_a_long_stream_comes_whole(model):
    outcome = model.ask("[[sandbox: words=1500]]", streamed=True)

    assert len(outcome.answer.text.split()) == 1500
    assert "".join(outcome.pieces) == outcome.answer.text


@both_ways
def test_fields_that_nobody_knows_yet_are_passed_over(model, streamed):
    outcome = model.ask("[[sandbox: unknown_fields say=fine]]", streamed=streamed)

    assert outcome.answer.text == "fine"


@both_ways
def test_a_text_cut_short_by_the_token_limit_is_an_answer(model, streamed):
    outcome = model.ask('[[sandbox: finish=MAX_TOKENS say="as far as"]]', streamed=streamed)

    assert (outcome.answer.text, outcome.answer.finish_reason) == ("as far as", FinishReason.MAX_TOKENS)


@both_ways
def test_what_is_no_text_is_passed_over(model, streamed):
    outcome = model.ask('[[sandbox: extras empty_end say="The answer is 42."]]', streamed=streamed)

    assert (outcome.answer.text, outcome.answer.finish_reason) == ("The answer is 42.", FinishReason.STOP)


@both_ways
def test_a_model_may_think_first(model, streamed):
    outcome = model.ask("[[sandbox: think=0.6 thinking_tokens=700 say=Yes]]", streamed=streamed)

    assert outcome.answer.text == "Yes"
    assert outcome.answer.usage.thinking_tokens == 700
    assert outcome.seconds > 0.5


@both_ways
def test_thinking_counts_against_the_most_that_may_be_written(make_asker, streamed):
    asker = make_asker(max_output_tokens=100)

    cut = asker.ask("[[sandbox: thinking_tokens=90 words=200]]", streamed=streamed).answer
    assert (len(cut.text), cut.finish_reason) == (40, FinishReason.MAX_TOKENS)
    assert isinstance(asker.ask("[[sandbox: thinking_tokens=100]]", streamed=streamed).error, OutputLimit)


# No text


@both_ways
@pytest.mark.parametrize(
    ("directive", "finish"),
    [("empty", "STOP"), ("finish=OTHER", "OTHER"), ('say="\\n "', "STOP")],
)
def test_an_answer_without_text_is_empty(model, streamed, directive, finish):
    outcome = model.ask(f"[[sandbox: {directive}]]", streamed=streamed)

    assert isinstance(outcome.error, ReplyEmpty)
    assert str(outcome.error) == f"no text, finish reason {finish}"


@both_ways
def test_an_allowance_that_went_into_thinking_is_told(model, streamed):
    outcome = model.ask("[[sandbox: finish=MAX_TOKENS]]", streamed=streamed)

    assert isinstance(outcome.error, OutputLimit)


@both_ways
@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "OTHER"])
def test_a_blocked_prompt_is_told_apart(model, streamed, reason):
    outcome = model.ask(f"[[sandbox: block={reason}]]", streamed=streamed)

    assert isinstance(outcome.error, ReplyBlocked)
    assert str(outcome.error) == f"prompt blocked: {reason}"


@both_ways
@pytest.mark.parametrize("finish", ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"])
def test_an_answer_stopped_by_safety_is_blocked(model, streamed, finish):
    outcome = model.ask(f"[[sandbox: finish={finish}]]", streamed=streamed)

    assert isinstance(outcome.error, ReplyBlocked)
    assert str(outcome.error) == f"answer blocked: {finish}"


def test_safety_may_stop_an_answer_in_the_middle(model):
    outcome = model.ask('[[sandbox: block_after=2 say="one two three"]]', streamed=True)

    assert isinstance(outcome.error, ReplyBlocked)
    assert "".join(outcome.pieces) == "one two"
    assert model.ask("Hello again", streamed=True).answer


# Errors


@both_ways
@pytest.mark.parametrize("status", [408, 429, 499, 500, 502, 503, 504])
def test_passing_trouble_may_be_tried_again(model, streamed, status):
    outcome = model.ask(f"[[sandbox: status={status}]]", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable
    assert str(outcome.error) == f"HTTP {status}"
    assert outcome.error.retry_after is None


@both_ways
def test_trouble_is_told_at_the_first_attempt(model, gemini, streamed):
    gemini.clear_requests()
    model.ask("[[sandbox: status=503]]", streamed=streamed)

    assert gemini.stats()["calls"] == 1


@both_ways
@pytest.mark.parametrize(("status", "seconds"), [(429, 2), (429, 0.25), (503, 7)])
def test_the_time_that_google_asks_for_is_told(model, streamed, status, seconds):
    outcome = model.ask(f"[[sandbox: status={status} retry_after={seconds}]]", streamed=streamed)

    assert outcome.error.retry_after == seconds


@both_ways
@pytest.mark.parametrize(("period", "seconds"), [("minute", 17), ("day", 86_400)])
def test_a_quota_of_googles_is_waited_for(model, streamed, period, seconds):
    """The day's comes back too late for any reply, whatever Google says of a few seconds."""
    outcome = model.ask(f"[[sandbox: quota={period}]]", streamed=streamed)

    assert (type(outcome.error), outcome.error.retry_after) == (ModelUnavailable, seconds)


@both_ways
@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, "HTTP 400"),
        (401, f"HTTP 401 : {KEY_REFUSED}"),
        (403, f"HTTP 403 : {KEY_REFUSED}"),
        (404, MODEL_UNKNOWN),
        (409, "HTTP 409"),
    ],
)
def test_a_refusal_is_for_good_and_says_what_to_mend(model, streamed, status, sentence):
    outcome = model.ask(f"[[sandbox: status={status}]]", streamed=streamed)

    assert isinstance(outcome.error, ModelRejected)
    assert str(outcome.error) == sentence


@both_ways
def test_a_wrong_key_is_told(make_asker, streamed):
    outcome = make_asker(api_key="invalid-key").ask("Hello", streamed=streamed)

    assert isinstance(outcome.error, ModelRejected)
    assert str(outcome.error) == f"HTTP 400 API_KEY_INVALID: {KEY_REFUSED}"


@both_ways
def test_a_model_that_google_has_ended_is_told(make_asker, streamed):
    outcome = make_asker(model="gemini-2.0-flash").ask("Hello", streamed=streamed)

    assert isinstance(outcome.error, ModelRejected)
    assert str(outcome.error) == MODEL_UNKNOWN


@both_ways
@pytest.mark.parametrize("directive", ["garbage", "drop", "drop_after=3"])
def test_a_broken_answer_may_be_tried_again(model, streamed, directive):
    outcome = model.ask(f"[[sandbox: {directive}]]", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable
    assert len(outcome.pieces) == (3 if streamed and directive == "drop_after=3" else 0)
    assert model.ask("Hello again", streamed=streamed).answer


def test_no_answer_at_all_is_no_empty_answer(make_asker):
    with serving(says(JSON)) as url:
        outcome = make_asker(endpoint=url).ask("Hello")

    assert type(outcome.error) is ModelUnavailable


@both_ways
def test_nobody_at_the_endpoint_may_be_tried_again(make_asker, streamed):
    outcome = make_asker(endpoint=f"http://127.0.0.1:{free_port()}").ask("Hello", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable


# Defects of ours


class Defect(Exception):
    """What the model cannot raise."""


@pytest.mark.parametrize("error", [TypeError, ValueError, OSError, Defect])
def test_an_error_of_whoever_takes_the_pieces_is_not_the_models(model, error):
    def fail(_piece):
        raise error("ours")

    with pytest.raises(error, match="ours"):
        model.ask("Hello", streamed=True, on_piece=fail)
    assert model.ask("Hello again", streamed=True).answer


@both_ways
def test_a_request_that_cannot_be_made_is_not_the_models_error(model, streamed):
    """Each SDK says with an error of its own kind that this is no text."""
    with pytest.raises(Exception, match=r".") as raised:
        model.ask(Turn("user", {"no": "text"}), streamed=streamed)
    assert not isinstance(raised.value, ModelError)


@both_ways
@pytest.mark.parametrize("body", [b'"no"', b"[]", b'{"error": "no"}', b"[3]", b"null", b"\xff\xfe"])
def test_an_error_answer_in_no_form_of_googles_may_be_tried_again(make_asker, streamed, body):
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(says(head, body)) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable
    assert str(outcome.error) == "HTTP 503"
