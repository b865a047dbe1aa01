"""A request passes its trace on to its task, to Gemini and to the logs."""

import json
import logging
import sys

import pytest

from app.core.logging import configure_logging
from app.core.tracing import parse_traceparent, request_id, traceparent
from sandbox.stack.processes import wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture(autouse=True)
def outside_of_a_trace():
    traceparent.set(None)
    yield
    traceparent.set(None)


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        (SENT, SENT),
        (SENT[:-2] + "00", SENT[:-2] + "00"),
        ("01" + SENT[2:], SENT),
        ("fe" + SENT[2:] + "-more", SENT),
        ("ff" + SENT[2:], None),
        (SENT + "-more", None),
        (SENT.upper(), None),
        (SENT + " ", None),
        (SENT + "\n", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE[1:]}-{PARENT}-01", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_only_a_valid_traceparent_is_accepted(header, taken):
    assert parse_traceparent(header) == taken


def test_the_trace_is_stored_with_the_reply_and_sent_to_gemini(room, runner, gemini):
    answer = room.person.post(f"{room.path}/message", json={"text": "Hello"}, headers={"traceparent": SENT})
    reply_id = answer.json["reply"]["id"]
    traceparent.set(None)
    room.generate(runner, reply_id)
    assert SENT in [asked["headers"].get("traceparent") for asked in gemini.requests()]
    assert room.row(reply_id).traceparent == SENT


def test_a_call_to_gemini_has_the_id_of_its_request(room, runner, gemini):
    headers = {"X-Request-ID": "a-request-to-follow"}
    answer = room.person.post(f"{room.path}/message", json={"text": "Hello"}, headers=headers)
    request_id.set(None)
    room.generate(runner, answer.json["reply"]["id"])
    assert gemini.requests()[-1]["headers"]["x-request-id"] == answer.headers["X-Request-ID"] == headers["X-Request-ID"]


def test_no_trace_is_sent_to_gemini_when_the_client_sends_none(room, runner, gemini):
    room.answer(runner, "Hello")
    assert "traceparent" not in gemini.requests()[-1]["headers"]


def test_a_request_does_not_inherit_the_trace_of_the_one_before(user):
    assert user.get("/models", headers={"traceparent": SENT}).status_code == 200
    assert user.get("/models").status_code == 200
    assert traceparent.get() is None


def test_a_retry_has_its_own_trace(room, runner, gemini):
    gemini.behave(status=400)
    reply = room.answer(runner, "Hello")
    gemini.reset()
    other = SENT.replace(TRACE, "a" * 32)
    again = room.person.post(f"{room.path}/messages/{reply.id}/retry", headers={"traceparent": other})
    assert again.status_code == 202
    room.generate(runner, reply.id)
    assert gemini.requests()[-1]["headers"]["traceparent"] == other


def test_the_task_logs_the_trace(worker_process, served_app, user, worker):
    path = user.make_chatroom()
    answer = user.post(f"{path}/message", json={"text": "Hello"}, headers={"traceparent": SENT, "Prefer": "wait=10"})
    assert answer.status_code == 200, answer.text
    lines = []

    def both_are_written():  # the task's own line comes after the answer
        lines[:] = [line for line in worker_process.read_text().splitlines() if TRACE in line]
        return all(any(what in line for line in lines) for what in ("messages.generate_reply", "outcome=completed"))

    assert wait_until(both_are_written, seconds=10), lines


@pytest.mark.parametrize("as_json", [True, False])
def test_log_lines_show_the_trace(capsys, as_json):
    configure_logging(level="INFO", as_json=as_json)
    traceparent.set(SENT)
    logging.getLogger("app").info("inside")
    traceparent.set(None)
    logging.getLogger("app").info("outside")
    inside, outside = capsys.readouterr().err.strip().splitlines()
    if as_json:
        assert json.loads(inside)["trace_id"] == TRACE
        assert "trace_id" not in json.loads(outside)
    else:
        assert inside.endswith(f"[trace {TRACE}]")
        assert "trace" not in outside


def test_an_otel_endpoint_without_the_packages_is_refused_in_one_sentence(make_app, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SystemExit, match=r"install requirements-otel\.txt\.$"):
        make_app(otel_exporter_otlp_endpoint="http://127.0.0.1:4318")


def test_an_invalid_otel_endpoint_is_refused(make_app):
    with pytest.raises(SystemExit, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        make_app(otel_exporter_otlp_endpoint="collector:4318")
