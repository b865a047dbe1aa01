"""Request ids and traces, which are passed on to a request's tasks, to Gemini and into the logs.

Every request has an id: the client's own if it is well formed. The trace (W3C Trace Context) is the client's
`traceparent`, as it came, unless spans are exported. With OTEL_EXPORTER_OTLP_ENDPOINT requests, tasks and calls to
Gemini are spans, which OpenTelemetry's SDK exports (docs/tracing.md); without it the SDK is not imported.
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
# Version, trace, parent and flags; anything that a later version adds after them is not passed on.
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
TRACER = "tracer"  # its key in app.extensions
SERVICE_NAME = "gemini-backend"  # unless OTEL_SERVICE_NAME is set

# The id of the current request or, in the worker, of the request that queued the task.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
# Where in a trace this thread's work is; None outside of one.
traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)


def trace_id() -> str | None:
    """Return the id of the trace that this thread's work belongs to, or None."""
    value = traceparent.get()
    return value.split("-")[1] if value else None


def parse_traceparent(header: str) -> str | None:
    """Return a `traceparent` header in version 00, or None if it is not a valid one."""
    match = TRACEPARENT.fullmatch(header)
    if match is None or (match[1] == "00" and match[5]):
        return None
    return f"00-{match[2]}-{match[3]}-{match[4]}"


def outgoing_headers() -> dict[str, str]:
    """Return the headers of a call on behalf of the current request, so that both sides' logs can be matched."""
    found = {"x-request-id": request_id.get(), TRACE_HEADER: traceparent.get()}
    return {name: value for name, value in found.items() if value}


def register_tracing(app: Flask, *, endpoint: str) -> None:
    """Give each request an id and a place in a trace, before anything else, and return the id in its response.

    endpoint: where spans are exported to; empty: nowhere.
    Raises SystemExit, with a sentence for the operator, if OpenTelemetry is configured but not installed.
    """
    app.extensions[TRACER] = make_tracer(endpoint) if endpoint else None
    app.before_request(begin_request)
    app.after_request(finish_request)


def make_tracer(endpoint: str) -> Any:
    """Return OpenTelemetry's tracer, which exports in a thread of each process. Raises SystemExit."""
    try:
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter
        export = import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
        sdk = import_module("opentelemetry.sdk.trace")
    except ImportError as error:
        raise SystemExit(
            f"Configuration: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed ({error}): install"
            " requirements-otel.txt."
        ) from error
    named = resources.Resource({"service.name": SERVICE_NAME}).merge(resources.OTELResourceDetector().detect())
    provider = sdk.TracerProvider(resource=named)
    provider.add_span_processor(export.BatchSpanProcessor(exporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    return provider.get_tracer("app")


@contextmanager
def span(name: str, kind: str) -> Iterator[None]:
    """Put a span around the block if spans are exported. kind: `SERVER`, `CONSUMER` or `CLIENT`."""
    otel_span = begin_span(name, kind)
    if otel_span is None:
        yield
        return
    before, own = traceparent.get(), traceparent_of(otel_span)
    traceparent.set(own)
    try:
        yield
    except BaseException as error:
        # Only the type: the error's text may hold a row of the database.
        otel_span.set_attribute("error.type", type(error).__qualname__)
        raise
    finally:
        if traceparent.get() == own:  # not if a task has switched to its reply's trace
            traceparent.set(before)
        otel_span.end()


def begin_span(name: str, kind: str) -> Any:
    """Begin a span below `traceparent`; the caller ends it. Returns None if no spans are exported."""
    tracer = current_app.extensions[TRACER]
    if tracer is None:
        return None
    api = import_module("opentelemetry.trace")
    parent = import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
    context = parent.extract({TRACE_HEADER: traceparent.get() or ""})
    return tracer.start_span(name, context=context, kind=api.SpanKind[kind])


def traceparent_of(otel_span: Any) -> str:
    """Format a span as a `traceparent`."""
    context = otel_span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def begin_request() -> None:
    offered = request.headers.get(REQUEST_ID_HEADER, "")
    request_id.set(offered if REQUEST_ID.fullmatch(offered) else str(uuid7()))
    traceparent.set(parse_traceparent(request.headers.get(TRACE_HEADER, "")))
    g.span = begin_span(request.method, "SERVER")
    if g.span is not None:
        traceparent.set(traceparent_of(g.span))


def finish_request(response: Response) -> Response:
    """Add the request's id to the response, and end its span with it: for a stream, after its last event."""
    response.headers[REQUEST_ID_HEADER] = request_id.get() or str(uuid7())
    if otel_span := g.get("span"):
        route = request.url_rule.rule if request.url_rule else ""
        otel_span.update_name(f"{request.method} {route}".strip())
        attributes = {"http.request.method": request.method, "http.route": route}
        otel_span.set_attributes(attributes | {"http.response.status_code": response.status_code})
        response.call_on_close(otel_span.end)
    return response
