"""flask-smorest, adapted: strict JSON bodies, problem documents, described errors, and conditional GETs."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial, wraps
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar, cast

import flask_smorest
import marshmallow as ma
from flask import Request, Response, json, request
from webargs.core import missing
from webargs.flaskparser import FlaskParser

from app.core.admission import Limit, limit_address
from app.core.auth import (
    InsufficientScope,
    Scope,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
    TokenRevoked,
    require_token,
)
from app.core.errors import (
    PROBLEM_TYPE,
    QUERY_IS_NOT_VALID,
    AppError,
    BodyTooLarge,
    MalformedJson,
    RateLimited,
    ServiceUnavailable,
    UnsupportedMediaType,
    ValidationFailed,
)
from app.core.schemas import Problem

JSON_TYPE = "application/json"

IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "`ETag` of an earlier answer: 304 while nothing has changed.",
    "schema": {"type": "string"},
}

View = TypeVar("View", bound=Callable[..., Any])


def header(description: str, kind: str = "string") -> dict[str, Any]:
    """Describe a response header."""
    return {"description": description, "schema": {"type": kind}}


RETRY_AFTER = {"Retry-After": header("Seconds to wait before the request is sent again.", "integer")}
HEADERS_OF_STATUS = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": header("The scheme to authenticate with (RFC 9110, 11.6.1).")},
    HTTPStatus.FORBIDDEN: {"WWW-Authenticate": header("With `insufficient_scope`: the scope that is needed.")},
    HTTPStatus.TOO_MANY_REQUESTS: RETRY_AFTER,
    HTTPStatus.SERVICE_UNAVAILABLE: RETRY_AFTER,
}


def refuse_constant(name: str) -> NoReturn:
    """Refuse `NaN` and `Infinity`, which Python reads but JSON does not have. Raises ValueError."""
    raise ValueError(name)


class ArgumentsParser(FlaskParser):
    """Reads a request's arguments, and refuses invalid ones with our own errors."""

    # The schema decides about unknown names in a query string, as it does in a body.
    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {"headers": ma.EXCLUDE}  # noqa: RUF012 - as webargs has it

    def load_json(self, req: Request, schema: Any) -> Any:  # noqa: ARG002 - webargs' signature
        """Return the parsed body, or `missing` if there is none.

        Raises UnsupportedMediaType, MalformedJson (also for nesting too deep or numbers too long to parse), and what
        `get_data` raises.
        """
        raw = req.get_data()
        if not raw and req.mimetype in {"", JSON_TYPE}:
            return missing
        if req.mimetype != JSON_TYPE:
            raise UnsupportedMediaType
        try:
            return json.loads(raw.decode("utf-8-sig"), parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            raise MalformedJson from None

    def load_querystring(self, req: Request, schema: Any) -> Any:
        repeated = [name for name, values in req.args.lists() if len(values) > 1]
        if repeated:
            raise ValidationFailed(
                {replace_surrogates(name): ["Given more than once."] for name in repeated}, QUERY_IS_NOT_VALID
            )
        return super().load_querystring(req, schema)

    def handle_error(self, error: Any, req: Any, schema: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002
        location, messages = next(iter(error.messages.items()))
        by_field = messages if isinstance(messages, Mapping) else {"_schema": messages}
        errors = {replace_surrogates(str(name)): what for name, what in by_field.items()}
        details = {"query": QUERY_IS_NOT_VALID, "headers": "The request headers are not valid."}
        raise ValidationFailed(errors, details.get(location)) from None


def replace_surrogates(name: str) -> str:
    """Return a name that the client sent, with lone surrogates replaced: a response cannot contain them."""
    return name.encode(errors="replace").decode()


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """A feature's routes. Each declares its authentication and its errors."""

    ARGUMENTS_PARSER = ArgumentsParser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(describe_contract)

    def arguments(self, schema: Any, *, location: str = "json", **kwargs: Any) -> Any:
        """Declare what a route takes. The example of a body is built from its fields' examples."""
        schema = schema()  # once, not for each request
        if location == "json":
            kwargs.setdefault("example", example_of(schema))
        return super().arguments(schema, location=location, **kwargs)

    def response(self, status_code: int, schema: Any = None, *, conditional: bool = False, **kwargs: Any) -> Any:
        """Declare what a route returns. Unless an example is given, it is built from the fields' examples.

        conditional: answer 304 if `If-None-Match` names this exact response.
        """
        if isinstance(schema, type):
            schema = schema()
            kwargs.setdefault("example", example_of(schema))
        described = super().response(status_code, schema, **kwargs)
        if not conditional:
            return described
        return lambda view: add_to_contract(conditional_get(described(view)), is_conditional=True)

    def authenticated(
        self, name: str, *limits: Limit, refresh: bool = False, scope: Scope | None = None
    ) -> Callable[[View], View]:
        """Require a valid access token (or refresh token). Use it directly below the route.

        name: what generated clients call the operation; never change a published one.
        limits: limits of one address, in addition to the user's. scope: API keys with this scope are accepted too.
        """
        check = partial(require_token, *limits, refresh=refresh, scope=scope)
        auth = "refreshToken" if refresh else "accessToken"
        return lambda view: add_to_contract(with_check(view, check), name=name, auth=auth, scope=scope)

    def public(self, name: str, *limits: Limit) -> Callable[[View], View]:
        """Declare that a route needs no token, so that none is open by oversight. Use it directly below the route.

        name: as for `authenticated`. limits: limits of one address; none for health checks, webhooks and the like.
        """
        check = partial(limit_address, *limits)
        return lambda view: add_to_contract(with_check(view, check), name=name, auth="public", limits=limits)

    def errors(self, *errors: type[AppError]) -> Callable[[View], View]:
        """Declare the errors of this route, in addition to those of every route of its kind."""
        return lambda view: add_to_contract(view, errors=errors)


def with_check(view: View, check: Callable[[], None]) -> View:
    """Wrap the view so that `check` runs first. The check refuses a request by raising."""

    @wraps(view)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check()
        return view(*args, **kwargs)

    return cast(View, checked)


def add_to_contract(view: View, **terms: Any) -> View:
    """Add terms to a view's contract, which is kept where flask-smorest keeps its own description of the view."""
    apidoc: dict[str, Any] = dict(getattr(view, "_apidoc", {}))
    apidoc["contract"] = apidoc.get("contract", {}) | terms
    view._apidoc = apidoc  # type: ignore[attr-defined]
    return view


def example_of(schema: ma.Schema) -> dict[str, Any]:
    """Build an example of a body from its fields' examples, including those of nested documents."""
    body = {}
    for name, field in schema.fields.items():
        item = getattr(field, "inner", field)  # a list shows one item
        if "example" in field.metadata:
            body[name] = field.metadata["example"]
        elif isinstance(item, ma.fields.Nested):
            inner = example_of(item.schema)
            body[name] = inner if item is field else [inner]
    return body


def describe_contract(doc: dict[str, Any], doc_info: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """Add a route's name, its authentication and an example of each of its errors to its OpenAPI description."""
    contract = doc_info.get("contract", {})
    doc["operationId"] = contract["name"]
    error_classes: list[type[AppError]] = [*contract.get("errors", ()), ServiceUnavailable, AppError]
    doc["security"] = []
    if contract.get("auth") != "public":
        doc["security"] = [{contract.get("auth"): []}]
        if contract.get("scope"):
            doc["security"].append({"apiKey": [contract["scope"].value]})
        error_classes += [TokenMissing, TokenInvalid, TokenExpired, TokenRevoked, InsufficientScope]
    if contract.get("auth") != "public" or contract.get("limits"):
        error_classes.append(RateLimited)
    if doc_info.get("arguments"):
        error_classes.append(ValidationFailed)
    if "requestBody" in doc:
        error_classes += [MalformedJson, UnsupportedMediaType, BodyTooLarge]
    by_status: dict[HTTPStatus, list[type[AppError]]] = defaultdict(list)
    for error_class in error_classes:
        by_status[HTTPStatus(error_class.status)].append(error_class)
    responses = {int(status): response for status, response in doc.get("responses", {}).items()}
    if contract.get("is_conditional"):
        doc.setdefault("parameters", []).append(IF_NONE_MATCH)
        etag = {"ETag": header("Names this state, for `If-None-Match`.")}
        responses[200].setdefault("headers", {}).update(etag)
        responses[304] = {"description": "Nothing has changed since the `ETag` in `If-None-Match`.", "headers": etag}
    responses.update({int(status): error_response(error_classes) for status, error_classes in by_status.items()})
    doc["responses"] = dict(sorted(responses.items()))
    return doc


def error_response(error_classes: list[type[AppError]]) -> dict[str, Any]:
    """Return the OpenAPI response of one status, with an example of each code."""
    examples = {
        error_class.code: {"summary": error_class.detail, "value": error_class.example()}
        for error_class in error_classes
    }
    headers = dict(HEADERS_OF_STATUS.get(error_classes[0].status, {}))
    for error_class in error_classes:
        headers |= error_class.described_headers
    described = {"headers": headers} if headers else {}
    return described | {
        "description": ", ".join(f"`{code}`" for code in examples),
        "content": {PROBLEM_TYPE: {"schema": Problem, "examples": examples}},
    }


def conditional_get(view: View) -> View:
    """Make the view a conditional GET (RFC 9110, 13): it answers 304 if the client's ETag matches the body.

    Unless the view says otherwise, they stay `no-store`: a client may keep one deliberately, but no cache on the way.
    """

    @wraps(view)
    def answer(*args: Any, **kwargs: Any) -> Response:
        response: Response = view(*args, **kwargs)
        response.add_etag()
        response.make_conditional(request.environ)
        return response

    return cast(View, answer)
