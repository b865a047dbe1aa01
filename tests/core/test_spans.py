"""Spans are exported to a collector where one is named. Needs requirements-otel.txt: ci/opentelemetry.sh has it."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from app.core.tracing import span, trace_id, traceparent
from tests.core.test_tracing import PARENT, SENT, TRACE, outside_of_a_trace  # noqa: F401 - around each test

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


class Collector(BaseHTTPRequestHandler):
    """Takes spans as a collector does: OTLP over HTTP, in protobuf."""

    taken: list = []  # noqa: RUF012 - one a test

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        sent = trace_service.ExportTraceServiceRequest.FromString(body)
        for resource in sent.resource_spans:
            name = next(item.value.string_value for item in resource.resource.attributes if item.key == "service.name")
            self.taken += [(name, span) for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    Collector.taken = []
    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def traced(make_app, make_redis_url, collector):
    app = make_app(redis_url=make_redis_url(), otel_exporter_otlp_endpoint=collector)
    yield app
    app.extensions["tracer"].span_processor.shutdown()


def spans_of(app):
    app.extensions["tracer"].span_processor.force_flush()
    return {span.name: span for _, span in Collector.taken}


def test_a_request_and_its_call_to_gemini_are_spans_of_the_clients_trace(traced, user, make_runner_for):
    user.client = traced.test_client()
    room = make_runner_for(traced, user)
    answer = user.post(f"{room.path}/message", json={"text": "Hello"}, headers={"traceparent": SENT})
    answer.close()
    room.generate(room.runner, answer.json["reply"]["id"])
    spans = spans_of(traced)
    request, call = spans["POST /chatroom/<id:chatroom_id>/message"], spans["generate_content"]
    assert answer.status_code == 202
    assert {request.trace_id.hex(), call.trace_id.hex()} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert call.parent_span_id == request.span_id
    assert {item.key: item.value for item in request.attributes}["http.response.status_code"].int_value == 202
    assert {name for name, _ in Collector.taken} == {"gemini-backend"}


def test_a_request_without_a_trace_begins_one(traced, user):
    user.client = traced.test_client()
    user.get("/models").close()
    span = spans_of(traced)["GET /models"]
    assert len(span.trace_id) == 16
    assert not span.parent_span_id


def test_a_trace_that_the_client_does_not_sample_is_not_exported(traced, user):
    user.client = traced.test_client()
    user.get("/models", headers={"traceparent": SENT[:-2] + "00"}).close()
    assert spans_of(traced) == {}


def test_a_span_shows_only_the_class_of_an_error(traced):
    with traced.app_context(), pytest.raises(ValueError, match="a row"), span("work", "CONSUMER"):
        raise ValueError("a row of the database")
    exported = spans_of(traced)["work"]
    assert {item.key: item.value.string_value for item in exported.attributes} == {"error.type": "ValueError"}
    assert "a row" not in str(exported)


def test_a_reply_whose_task_another_reply_queued_keeps_its_own_trace(traced, user, make_runner_for):
    """A reply that waits for another of its room is queued when that one ends."""
    user.client = traced.test_client()
    room = make_runner_for(traced, user)
    answer = user.post(f"{room.path}/message", json={"text": "Hello"}, headers={"traceparent": SENT})
    answer.close()
    with traced.app_context():
        traceparent.set(f"00-{'a' * 32}-{PARENT}-01")
        with span("messages.generate_reply", "CONSUMER"):
            room.generate(room.runner, answer.json["reply"]["id"])
    assert trace_id() == TRACE


def test_an_unreachable_collector_does_no_harm(make_app, make_redis_url, user):
    app = make_app(redis_url=make_redis_url(), otel_exporter_otlp_endpoint="http://127.0.0.1:9")
    user.client = app.test_client()
    assert user.get("/models").status_code == 200
