"""The format of Stripe's requests and errors.

Parameters are nested forms: `a[b]=1` is an object, `a[]=1` and `a[0]=1` are lists, and every value is a string
(https://docs.stripe.com/api). Errors are those of https://docs.stripe.com/api/errors.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

Params = dict[str, Any]
DOC_URL = "https://docs.stripe.com/error-codes#"


def parse_form(pairs: Iterable[tuple[str, str]]) -> Params:
    """Return nested objects and lists made from flat pairs, in the order they came."""
    tree: Params = {}
    for name, value in pairs:
        first, *rest = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name) or [name]
        node = tree
        for step in [first, *rest][:-1]:
            node = node.setdefault(step or str(len(node)), {})
        last = rest[-1] if rest else first
        node[last or str(len(node))] = value
    return {name: _with_lists(value) for name, value in tree.items()}


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(key.isdecimal() for key in node):
        return [_with_lists(node[key]) for key in sorted(node, key=int)]
    return {key: _with_lists(value) for key, value in node.items()}


def as_text(params: Params, name: str) -> str | None:
    """Return a plain value. An empty one means null."""
    value: str | None = params.get(name) or None
    return value


def as_required_text(params: Params, name: str) -> str:
    """Return a plain value that must be there. Raises StripeError."""
    value = as_text(params, name)
    if value is None:
        raise parameter_missing(name)
    return value


def as_metadata(params: Params) -> dict[str, str]:
    """Return the object's `metadata` (https://docs.stripe.com/api/metadata)."""
    return dict(params.get("metadata") or {})


class StripeError(Exception):
    """An answer that is not a success.

    `keep`: whether an idempotency key keeps it. Stripe keeps only the answer of an endpoint that has begun its work,
    so refused parameters and conflicts are not kept.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        keep: bool = True,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.keep = status, keep
        error: dict[str, Any] = {"message": message, "type": kind}
        if code:
            error |= {"code": code, "doc_url": DOC_URL + code.replace("_", "-")}
        if param:
            error["param"] = param
        self.body = {"error": error | extra}


def missing_resource(kind: str, object_id: str, param: str | None = None) -> StripeError:
    """Return the error for a missing object: 404 if the path named it, 400 if a parameter did."""
    return StripeError(
        HTTPStatus.BAD_REQUEST if param else HTTPStatus.NOT_FOUND,
        f"No such {kind}: '{object_id}'",
        code="resource_missing",
        param=param or "id",
    )


def parameter_missing(param: str) -> StripeError:
    """Return the error for a missing parameter."""
    message = f"Missing required param: {param}."
    return StripeError(400, message, code="parameter_missing", param=param, keep=False)


def parameter_invalid(param: str, message: str, code: str | None = None) -> StripeError:
    """Return the error for an invalid parameter."""
    return StripeError(400, message, code=code, param=param, keep=False)


def card_declined() -> StripeError:
    """Return the error for a card that the customer's bank declined (https://docs.stripe.com/declines)."""
    return StripeError(
        402,
        "Your card was declined.",
        kind="card_error",
        code="card_declined",
        decline_code="generic_decline",
    )


def of_status(status: int, code: str | None = None) -> StripeError:
    """Return the error that Stripe typically sends with a status, for failures made on purpose."""
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return card_declined()
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return StripeError(status, "Request rate limit exceeded.", code=code or "rate_limit")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return StripeError(status, "An unknown error occurred.", kind="api_error", code=code)
    return StripeError(status, f"The stand-in was told to answer {status}.", code=code, keep=False)
