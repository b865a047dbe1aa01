"""The one error envelope: RFC 9457 problem documents for every 4xx and 5xx."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

import redis
from flask import Flask, Response, json
from prometheus_client import Counter
from werkzeug.exceptions import HTTPException

from app.core.db import DATABASE_UNAVAILABLE, TRANSIENT_DATABASE_ERRORS
from app.core.logging import first_line
from app.core.tracing import request_id

REFUSALS = Counter("http_errors", "Error responses (problem documents) by code.", ["code"])

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5  # for a 503: long enough for a dependency's restart, short enough for a person
EXAMPLE_REQUEST_ID = "0192d3a4-5b6c-7d8e-9f01-23456789abcd"
# RFC 9110's names, where Python 3.11 still has the older ones.
TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    429: "rate_limited",
    431: "headers_too_large",
    501: "not_implemented",
}
DETAILS = {
    404: "There is nothing at this address, or it is not yours.",
    405: "This address does not support that method; `Allow` lists those that it supports.",
    408: "The request body did not arrive in time.",
    413: "The request body is too large.",
    415: "Send the body as JSON, with `Content-Type: application/json`.",
}


class AppError(Exception):
    """An error for the client. Subclasses set `status`, `code` (public API) and `detail`."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal_error"
    detail = "Something went wrong here; it has been logged."
    errors: Mapping[str, Any] | None = None  # messages by field, where fields are at fault
    headers: Mapping[str, str] = {}
    described_headers: Mapping[str, Any] = {}  # for OpenAPI, in addition to those of the status

    def __init__(self, detail: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or self.detail)
        self.detail = detail or self.detail
        self.headers = {**self.headers, **(headers or {})}

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return the problem document of this error, as the API's description shows it."""
        return problem(cls.status, cls.code, cls.detail) | {"request_id": EXAMPLE_REQUEST_ID}


class NotFound(AppError):
    """It does not exist or belongs to somebody else; the answer does not say which."""

    status, code, detail = HTTPStatus.NOT_FOUND, "not_found", DETAILS[404]


QUERY_IS_NOT_VALID = "The query string is not valid."


class ValidationFailed(AppError):
    """The request is not valid; `errors` lists messages by field."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "validation_error"
    detail = "The request body is not valid."

    def __init__(self, errors: Mapping[str, Any], detail: str | None = None) -> None:
        super().__init__(detail)
        self.errors = dict(errors)

    @classmethod
    def example(cls) -> dict[str, Any]:
        return super().example() | {"errors": {"field": ["Missing data for required field."]}}


class MalformedJson(AppError):
    """The body cannot be read, or is not JSON."""

    status, code, detail = HTTPStatus.BAD_REQUEST, "malformed_json", "The request body is not JSON in UTF-8."


class UnsupportedMediaType(AppError):
    """The body is not declared to be JSON."""

    status, code, detail = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, CODES[415], DETAILS[415]


class BodyTooLarge(AppError):
    """The body is larger than the route allows."""

    status, code, detail = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, CODES[413], DETAILS[413]


class RateLimited(AppError):
    """Too many requests from one user or address, or about one number."""

    status, code, detail = HTTPStatus.TOO_MANY_REQUESTS, CODES[429], "Too many requests. Slow down."

    def __init__(self, detail: str | None = None, *, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, retry_after))})


class ServiceUnavailable(AppError):
    """A dependency does not answer; nothing was stored or charged."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable"
    detail = "Part of the service is unavailable right now. Try again in a few seconds."

    def __init__(self, detail: str | None = None, *, retry_after: int = RETRY_AFTER_SECONDS) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


def register_error_handlers(app: Flask) -> None:
    """Turn every exception that leaves a view into a problem document."""
    app.register_error_handler(AppError, handle_app_error)
    app.register_error_handler(HTTPException, handle_http_exception)
    for failure in (*TRANSIENT_DATABASE_ERRORS, redis.RedisError):
        app.register_error_handler(failure, handle_dependency_error)
    app.register_error_handler(Exception, handle_unexpected)


def code_of(status: int) -> str:
    """Return the code of an error that has no class of its own."""
    return CODES.get(status, "internal_error" if status >= 500 else "bad_request")  # noqa: PLR2004


def problem(status: int, code: str, detail: str) -> dict[str, Any]:
    """Return the body of a problem document."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    return {
        "type": "about:blank",
        "title": title,
        "status": int(status),
        "detail": detail,
        "code": code,
        "request_id": request_id.get(),
    }


def handle_app_error(error: AppError) -> Response:
    """Answer with one of our own errors."""
    REFUSALS.labels(error.code).inc()
    body = problem(error.status, error.code, error.detail)
    if error.errors is not None:
        body["errors"] = error.errors
    content = json.dumps(body)
    return Response(content, error.status, error.headers, content_type=PROBLEM_TYPE)


def handle_http_exception(error: HTTPException) -> Response:
    """Answer with one of Werkzeug's errors, and with the headers it brings (`Allow`, `Retry-After`)."""
    status = HTTPStatus(cast(int, error.code))  # Flask passes on neither errors without a code nor redirects
    headers = {name: value for name, value in error.get_headers() if name in {"Allow", "Retry-After"}}
    ours = AppError(DETAILS.get(status) or error.description or status.phrase, headers=headers)
    ours.status, ours.code = status, code_of(status)
    return handle_app_error(ours)


def handle_dependency_error(error: Exception) -> Response:
    """Answer 503 if PostgreSQL or Redis does not answer, or PostgreSQL has ended a statement: a retry may succeed."""
    if isinstance(error, (*DATABASE_UNAVAILABLE, redis.RedisError)):
        log.error("A dependency does not answer: %s", first_line(error))
    else:
        log.error("PostgreSQL aborted a statement", exc_info=error)
    return handle_app_error(ServiceUnavailable())


def handle_unexpected(error: Exception) -> Response:
    """Answer 500 to a defect. Its traceback goes to the log, not to the client."""
    log.error("Unexpected error", exc_info=error)
    return handle_app_error(AppError())
