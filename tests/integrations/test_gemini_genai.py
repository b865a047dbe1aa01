"""What concerns google-genai alone: its streams, and what it would do beyond one request."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import CallAborted, ModelUnavailable
from tests.integrations.scripted import SSE, says, serving


@pytest.fixture
def sdk() -> str:
    return "google-genai"


def event(text: str | None = None, **candidate: Any) -> bytes:
    """One event of a stream."""
    content = {"content": {"parts": [{"text": text}]}} if text is not None else {}
    return f"data: {json.dumps({'candidates': [content | candidate]}, ensure_ascii=False)}\r\n\r\n".encode()


def test_a_stream_that_ends_without_a_reason_is_a_failed_attempt(make_asker):
    with serving(says(SSE, event("Half of "), event("it"))) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=True)

    assert type(outcome.error) is ModelUnavailable
    assert outcome.pieces == ["Half of ", "it"]


def test_an_abort_that_looks_like_the_end_is_still_an_abort(make_asker):
    call = BoundedCall(30)

    def script(connection: socket.socket) -> None:
        connection.sendall(SSE + event("Half of it"))
        connection.recv(1)

    with serving(script) as url:
        outcome = make_asker(endpoint=url).ask("Hello", streamed=True, call=call, on_piece=lambda _: call.abort())

    assert isinstance(outcome.error, CallAborted)


def test_unicode_separators_that_end_no_line_stay_in_the_text(make_asker):
    with serving(says(SSE, event("a\u2028b\u0085c", finishReason="STOP"))) as url:
        assert make_asker(endpoint=url).ask("Hello", streamed=True).answer.text == "a\u2028b\u0085c"


def test_characters_that_the_network_splits_arrive_whole(make_asker):
    whole = event("東京 𝄞", finishReason="STOP")
    with serving(says(SSE, *(bytes([byte]) for byte in whole))) as url:
        assert make_asker(endpoint=url).ask("Hello", streamed=True).answer.text == "東京 𝄞"


@pytest.mark.filterwarnings("ignore:.*is not a valid FinishReason")
def test_an_unknown_finish_reason_counts_as_an_end(make_asker):
    with serving(says(SSE, event("Done", finishReason="BORED"))) as url:
        assert make_asker(endpoint=url).ask("Hello", streamed=True).answer.text == "Done"


def test_thoughts_are_no_part_of_the_answer(make_asker):
    parts = [{"text": "Hm, well …", "thought": True}, {"text": "Yes."}]
    with serving(says(SSE, event(content={"parts": parts}, finishReason="STOP"))) as url:
        assert make_asker(endpoint=url).ask("Hello", streamed=True).answer.text == "Yes."


def test_the_sdk_asks_for_no_continuation(make_asker):
    requests = []

    def script(connection: socket.socket) -> None:
        requests.append(connection)
        connection.sendall(SSE + event("Half", finishReason="CONTINUATION", continuationToken="dG9rZW4="))

    with serving(script) as url:
        make_asker(endpoint=url).ask("Hello", streamed=True)

    assert len(requests) == 1


@pytest.mark.parametrize("body", [b'"no"', b"[]", b'{"error": "no"}', b'{"error": {"details": "no"}}', b"\xff\xfe"])
def test_an_error_that_is_not_in_googles_form_is_classified_by_its_status(make_asker, body):
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 4\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(says(head, body)) as url:
        outcome = make_asker(endpoint=url).ask("Hello")

    assert type(outcome.error) is ModelUnavailable


@pytest.fixture
def environment_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_GENAI_USE_ENTERPRISE": "true",
        "GOOGLE_API_KEY": "another-key",
        "GOOGLE_CLOUD_PROJECT": "a-project",
        "GOOGLE_GENAI_API_VERSION": "v9",
        "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)


def test_only_the_settings_configure_the_client(make_asker, environment_of_another_kind):
    asker = make_asker()

    assert not asker.client.client.vertexai
    assert asker.ask("Hello").answer


def test_a_first_call_may_be_made_by_many_threads_at_once(make_asker):
    fresh = make_asker()
    with ThreadPoolExecutor(32) as threads:
        outcomes = list(threads.map(lambda _: fresh.ask("Hello", streamed=True), range(32)))

    assert all(outcome.answer for outcome in outcomes)
