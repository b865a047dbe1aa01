"""What each model client makes of a model's failures, tested with both SDKs, whole and streamed."""

import json

import pytest

from app.integrations.gemini.client import (
    ModelError,
    ModelRejected,
    ModelUnavailable,
    OutputLimit,
    ReplyBlocked,
    ReplyEmpty,
    Turn,
    error_for,
)
from sandbox.stack.processes import free_port
from tests.integrations.scripted import JSON, SSE, says, serving
from tests.integrations.test_model_client_contract import both_ways

KEY_REFUSED = "Google refuses GEMINI_API_KEY; set a valid key"
MODEL_UNKNOWN = "HTTP 404: Google does not know the model; set GEMINI_MODEL or GEMINI_MODELS to one that it offers"


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
def test_an_allowance_that_went_into_thinking_is_an_output_limit(model, streamed):
    outcome = model.ask("[[sandbox: finish=MAX_TOKENS]]", streamed=streamed)

    assert isinstance(outcome.error, OutputLimit)


@both_ways
@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "OTHER"])
def test_a_blocked_prompt_is_reported_as_blocked(model, streamed, reason):
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
def test_a_transient_error_may_be_retried(model, streamed, status):
    outcome = model.ask(f"[[sandbox: status={status}]]", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable
    assert str(outcome.error) == f"HTTP {status}"
    assert outcome.error.retry_after is None


@both_ways
@pytest.mark.parametrize("status", [401, 503])
def test_an_error_is_raised_at_the_first_attempt(model, gemini, streamed, status):
    gemini.clear_requests()
    model.ask(f"[[sandbox: status={status}]]", streamed=streamed)

    assert gemini.stats()["calls"] == 1


@both_ways
@pytest.mark.parametrize(("status", "seconds"), [(429, 2), (429, 0.25), (503, 7)])
def test_the_delay_that_google_asks_for_is_passed_on(model, streamed, status, seconds):
    outcome = model.ask(f"[[sandbox: status={status} retry_after={seconds}]]", streamed=streamed)

    assert outcome.error.retry_after == seconds


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("inf", 86_400), ("1e300", 86_400), ("nan", 0), ("-1", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
def test_an_odd_delay_is_passed_on_within_bounds(said, seconds):
    assert error_for(503, [], {"Retry-After": said}).retry_after == seconds


@both_ways
@pytest.mark.parametrize(("period", "seconds"), [("minute", 17), ("day", 86_400)])
def test_a_quota_error_gives_the_delay_of_its_period(model, streamed, period, seconds):
    """A daily quota resets too late for any reply, even when Google asks for a few seconds."""
    outcome = model.ask(f"[[sandbox: quota={period}]]", streamed=streamed)

    assert (type(outcome.error), outcome.error.retry_after) == (ModelUnavailable, seconds)


@both_ways
@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, "HTTP 400 INVALID_ARGUMENT"),
        (401, f"HTTP 401 UNAUTHENTICATED: {KEY_REFUSED}"),
        (403, f"HTTP 403 PERMISSION_DENIED: {KEY_REFUSED}"),
        (404, MODEL_UNKNOWN),
        (409, "HTTP 409 ABORTED"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_fix(model, streamed, status, sentence):
    outcome = model.ask(f"[[sandbox: status={status}]]", streamed=streamed)

    assert isinstance(outcome.error, ModelRejected)
    assert str(outcome.error) == sentence


@both_ways
def test_a_refusal_without_a_reason_is_logged_with_googles_status(make_asker, streamed):
    """From a country without a free tier, say. The message stays out: it may quote the conversation."""
    refused = {"code": 400, "message": "User location is not supported.", "status": "FAILED_PRECONDITION"}
    body = json.dumps({"error": refused}).encode()
    with serving(says(b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n" % len(body), body)) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=streamed)

    assert isinstance(outcome.error, ModelRejected)
    assert str(outcome.error) == "HTTP 400 FAILED_PRECONDITION"


@both_ways
@pytest.mark.parametrize("named", ["cannot answer Hello", "HELLO\nERROR", {"prompt": "Hello"}, "A" * 100_000])
@pytest.mark.parametrize("field", ["status", "reason"])
def test_only_googles_constants_get_into_the_log(make_asker, streamed, field, named):
    """A gateway may write anything there, the conversation too."""
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": named}
    body = json.dumps({"error": {"status": named} if field == "status" else {"details": [reason]}}).encode()
    with serving(says(b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n" % len(body), body)) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=streamed)

    assert (type(outcome.error), str(outcome.error)) == (ModelRejected, "HTTP 400")


@both_ways
def test_a_wrong_key_is_refused_with_what_to_fix(make_asker, streamed):
    outcome = make_asker(api_key="invalid-key").ask("Hello", streamed=streamed)

    assert isinstance(outcome.error, ModelRejected)
    assert str(outcome.error) == f"HTTP 400 API_KEY_INVALID: {KEY_REFUSED}"


@both_ways
def test_a_model_that_google_has_ended_is_refused_with_what_to_fix(make_asker, streamed):
    outcome = make_asker(model="gemini-2.0-flash").ask("Hello", streamed=streamed)

    assert isinstance(outcome.error, ModelRejected)
    assert str(outcome.error) == MODEL_UNKNOWN


@both_ways
@pytest.mark.parametrize("directive", ["garbage", "drop", "drop_after=3"])
def test_a_broken_answer_may_be_retried(model, streamed, directive):
    outcome = model.ask(f"[[sandbox: {directive}]]", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable
    assert len(outcome.pieces) == (3 if streamed and directive == "drop_after=3" else 0)
    assert model.ask("Hello again", streamed=streamed).answer


@both_ways
def test_an_answer_that_is_nested_too_deep_to_read_may_be_retried(make_asker, sdk, streamed):
    body = b'{"thought":' + b"[" * 100_000
    script = says(SSE, b"data: %s\r\n\r\n" % body) if streamed and sdk == "google-genai" else says(JSON, body)
    with serving(script) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable


@pytest.mark.parametrize("sdk", ["google-generativeai"])
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"<html>Welcome</html>", "the answer is not a stream of responses"),
        (b'[{"candidates": [{"content"', "the answer broke off within a response"),
    ],
)
def test_the_log_says_what_is_wrong_with_a_stream(make_asker, body, sentence):
    with serving(says(JSON, body)) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=True)

    assert (type(outcome.error), str(outcome.error)) == (ModelUnavailable, sentence)


def test_a_stream_shorter_than_its_content_length_may_be_retried(make_asker, sdk):
    """The model was still thinking: a stream that ends there by itself is an empty answer."""
    response = b'{"usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 9}}'
    body = b"[" + response if sdk == "google-generativeai" else b"data: " + response + b"\r\n\r\n"
    with serving(says(JSON.replace(b"Connection: close", b"Content-Length: 1000"), body)) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=True)

    assert type(outcome.error) is ModelUnavailable


def test_a_missing_answer_is_not_an_empty_answer(make_asker):
    with serving(says(JSON)) as url:
        outcome = make_asker(endpoint=url).ask("Hello")

    assert type(outcome.error) is ModelUnavailable


@both_ways
def test_an_unreachable_endpoint_may_be_retried(make_asker, streamed):
    outcome = make_asker(endpoint=f"http://127.0.0.1:{free_port()}").ask("Hello", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable


# Defects of ours


class Defect(Exception):
    """An error that the model cannot raise."""


@pytest.mark.parametrize("error", [TypeError, ValueError, OSError, Defect])
def test_an_error_of_the_code_that_takes_the_pieces_is_not_the_models(model, error):
    def fail(_piece):
        raise error("ours")

    with pytest.raises(error, match="ours"):
        model.ask("Hello", streamed=True, on_piece=fail)
    assert model.ask("Hello again", streamed=True).answer


@both_ways
def test_a_request_that_cannot_be_built_is_not_the_models_error(model, streamed):
    """Each SDK raises its own kind of error for a turn that is not text."""
    with pytest.raises(Exception, match=r".") as raised:
        model.ask(Turn("user", {"no": "text"}), streamed=streamed)
    assert not isinstance(raised.value, ModelError)


@both_ways
@pytest.mark.parametrize("body", [b'"no"', b"[]", b'{"error": "no"}', b"[3]", b"null", b"\xff\xfe"])
def test_an_error_answer_that_is_not_in_googles_form_may_be_retried(make_asker, streamed, body):
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(says(head, body)) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=streamed)

    assert type(outcome.error) is ModelUnavailable
    assert str(outcome.error) == "HTTP 503"


@both_ways
def test_an_error_page_that_is_not_in_utf_8_keeps_its_status(make_asker, streamed):
    """A proxy in Paris may write one."""
    head = b"HTTP/1.1 %d No\r\nRetry-After: 4\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\n"
    with serving(says(head % 404, b"refus\xe9!")) as url:
        refused = make_asker(endpoint=url).ask("Hello", streamed=streamed).error
    with serving(says(head % 429, b"refus\xe9!")) as url:
        delayed = make_asker(endpoint=url).ask("Hello", streamed=streamed).error

    assert (type(refused), str(refused)) == (ModelRejected, MODEL_UNKNOWN)
    assert (type(delayed), delayed.retry_after) == (ModelUnavailable, 4)


@both_ways
@pytest.mark.parametrize("charset", [b"utf-16", b"idna"])
def test_an_error_answer_is_read_as_json_in_utf_8_whatever_its_charset(make_asker, streamed, charset):
    head = b"HTTP/1.1 503 No\r\nContent-Type: application/json; charset=%s\r\nContent-Length: 26\r\n\r\n" % charset
    with serving(says(head, b'[{"error": {"code": 503}}]')) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=streamed)

    assert (type(outcome.error), str(outcome.error)) == (ModelUnavailable, "HTTP 503")


@pytest.mark.parametrize("text", ["", "Half"])
@pytest.mark.parametrize(("code", "kind"), [(503, ModelUnavailable), (400, ModelRejected)])
def test_an_error_in_the_middle_of_a_stream_is_raised(make_asker, sdk, text, code, kind):
    """If the model has only thought so far, the error must not pass for an empty reply, which costs a prompt."""
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3s"}
    error = {"code": code, "message": "Overloaded", "details": [retry]}
    begun = {"candidates": [{"content": {"parts": [{"text": text}]}}], "usageMetadata": {"promptTokenCount": 5}}
    responses = [begun, {"error": error}]
    if sdk == "google-genai":
        script = says(SSE, *(b"data: %s\r\n\r\n" % json.dumps(one).encode() for one in responses))
    else:
        script = says(JSON, json.dumps(responses).encode())
    with serving(script) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=True)

    assert (type(outcome.error), str(outcome.error), "".join(outcome.pieces)) == (kind, f"HTTP {code}", text)
    assert getattr(outcome.error, "retry_after", None) == (3 if code == 503 else None)


@both_ways
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_carries_neither_the_key_nor_the_conversation_elsewhere(make_asker, streamed, status):
    moved = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
    carried = []
    with serving(carried.append) as elsewhere, serving(says(moved % (status, elsewhere.encode()))) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=streamed)

    assert (type(outcome.error), str(outcome.error)) == (ModelRejected, f"HTTP {status}")
    assert carried == []


@both_ways
@pytest.mark.parametrize("details", [b"null", b'"no"', b'["no"]', b"3", b'{"a": 1}'])
def test_details_that_are_not_in_googles_form_are_ignored(make_asker, streamed, details):
    """A gateway in Go writes `null` for none."""
    body = b'{"error": {"code": 503, "status": "UNAVAILABLE", "message": "Busy", "details": %s}}' % details
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 4\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(says(head, body)) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=streamed)

    assert (type(outcome.error), outcome.error.retry_after) == (ModelUnavailable, 4)
