"""Whose work this is: a request's id and its trace go along to its tasks, to Gemini and into the logs.

Every request has an id: the client's own if it is sane. The trace (W3C Trace Context) is the client's `traceparent`, as
it came, in most deployments. With OTEL_EXPORTER_OTLP_ENDPOINT requests, tasks and calls of Gemini are spans, which
OpenTelemetry's SDK exports (docs/tracing.md); without it nothing of that is imported.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from flask import Flask, Response, current_app, g, request
from uuid_utils.compat import uuid7

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
TRACE_HEADER = "traceparent"
# Version, trace, parent and flags; what a later version may add after them is not passed on.
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
TRACER = "tracer"  # its key in app.extensions
SERVICE_NAME = "gemini-backend"  # unless OTEL_SERVICE_NAME says another

# The id of the current request or, in the worker, of the request that queued the task.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
# The place in a trace of what this thread does; None outside of one.
traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)


def trace_id() -> str | None:
    """The trace of what this thread does."""
    value = traceparent.get()
    return value.split("-")[1] if value else None


def parse_traceparent(header: str) -> str | None:
    """A `traceparent` header in version 00; None when it is none."""
    match = TRACEPARENT.fullmatch(header)
    if match is None or (match[1] == "00" and match[5]):
        return None
    return f"00-{match[2]}-{match[3]}-{match[4]}"


def outgoing_headers() -> dict[str, str]:
    """What a call on behalf of the current request carries, so that it can be found in two logs."""
    found = {"x-request-id": request_id.get(), TRACE_HEADER: traceparent.get()}
    return {name: value for name, value in found.items() if value}


def register_tracing(app: Flask, *, endpoint: str) -> None:
    """Give each request its id and its place in a trace, before anything else, and its response the same id.

    endpoint: where spans are exported to; empty: nowhere.
    Raises SystemExit, with a sentence for the operator, when OpenTelemetry is asked for and not installed.
    """
    app.extensions[TRACER] = make_tracer(endpoint) if endpoint else None
    app.before_request(begin_request)
    app.after_request(finish_request)


def make_tracer(endpoint: str) -> Any:
    """OpenTelemetry's tracer, which exports in a thread of each process. Raises SystemExit."""
    try:
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter
        export = import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
        sdk = import_module("opentelemetry.sdk.trace")
    except ImportError as error:
        raise SystemExit(
            f"Configuration: OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed ({error}): install"
            " requirements-otel.txt."
        ) from error
    named = resources.Resource({"service.name": SERVICE_NAME}).merge(resources.OTELResourceDetector().detect())
    provider = sdk.TracerProvider(resource=named)
    provider.add_span_processor(export.BatchSpanProcessor(exporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    return provider.get_tracer("app")


@contextmanager
def span(name: str, kind: str) -> Iterator[None]:
    """A span around the block, where spans are exported. kind: `SERVER`, `CONSUMER` or `CLIENT`."""
    begun = begin_span(name, kind)
    if begun is None:
        yield
        return
    before, own = traceparent.get(), traceparent_of(begun)
    traceparent.set(own)
    try:
        yield
    except BaseException as error:
        begun.set_attribute("error.type", type(error).__qualname__)  # its text may hold a row of the database
        raise
    finally:
        if traceparent.get() == own:  # a task goes on in the trace of its reply, whatever queued it
            traceparent.set(before)
        begun.end()


def begin_span(name: str, kind: str) -> Any:
    """A span below `traceparent`, which the caller ends; None where none is exported."""
    tracer = current_app.extensions[TRACER]
    if tracer is None:
        return None
    api = import_module("opentelemetry.trace")
    parent = import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
    context = parent.extract({TRACE_HEADER: traceparent.get() or ""})
    return tracer.start_span(name, context=context, kind=api.SpanKind[kind])


def traceparent_of(begun: Any) -> str:
    """A span as a `traceparent`."""
    context = begun.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def begin_request() -> None:
    offered = request.headers.get(REQUEST_ID_HEADER, "")
    request_id.set(offered if REQUEST_ID.fullmatch(offered) else str(uuid7()))
    traceparent.set(parse_traceparent(request.headers.get(TRACE_HEADER, "")))
    g.span = begin_span(request.method, "SERVER")
    if g.span is not None:
        traceparent.set(traceparent_of(g.span))


def finish_request(response: Response) -> Response:
    """Tell the request's id, and end its span with the response; that of a stream with its last event."""
    response.headers[REQUEST_ID_HEADER] = request_id.get() or str(uuid7())
    if begun := g.get("span"):
        route = request.url_rule.rule if request.url_rule else ""
        begun.update_name(f"{request.method} {route}".strip())
        attributes = {"http.request.method": request.method, "http.route": route}
        begun.set_attributes(attributes | {"http.response.status_code": response.status_code})
        response.call_on_close(begun.end)
    return response
