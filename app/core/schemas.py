"""Schemas that all features share, and keyset pagination.

Cursors are opaque. Pages neither skip nor repeat rows while others are inserted.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import marshmallow as ma
from marshmallow import validate

from app.core import fields
from app.core.errors import AppError

MAX_LIMIT = 100
MAX_CURSOR_CHARS = 200
NEXT_CURSOR = fields.String("The `cursor` of the next page; null on the last page.", allow_none=True, example=None)
MESSAGES = {"type": "array", "items": {"type": "string"}}

Row = TypeVar("Row")


class InvalidCursor(AppError):
    """The cursor is not one of this service's."""

    status, code = HTTPStatus.BAD_REQUEST, "invalid_cursor"
    detail = "The cursor does not come from this list."


@dataclass(frozen=True)
class Page(Generic[Row]):
    """A part of a list, and the cursor of the next part (None if there is none)."""

    items: list[Row]
    next_cursor: str | None


def encode_cursor(*parts: object) -> str:
    """Encode the position after a row as text for a URL."""
    return base64.urlsafe_b64encode("|".join(map(str, parts)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *parsers: Callable[[str], Any]) -> list[Any]:
    """Decode a cursor into its parts, each through its parser. Raises InvalidCursor."""
    try:
        if len(cursor) > MAX_CURSOR_CHARS:
            raise InvalidCursor
        padded = cursor + "=" * (-len(cursor) % 4)
        parts = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").split("|")
        return [parse(part) for parse, part in zip(parsers, parts, strict=True)]
    except (ValueError, OverflowError):
        raise InvalidCursor from None


def cut_page(rows: Sequence[Row], limit: int, cursor_of: Callable[[Row], str]) -> Page[Row]:
    """Turn up to `limit + 1` rows into a page; the extra row means that there is a next page."""
    items = list(rows[:limit])
    return Page(items, cursor_of(items[-1]) if len(rows) > limit else None)


class Schema(ma.Schema):
    """Refuses unknown fields."""

    class Meta:
        unknown = ma.RAISE

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        """Return a field's value by its plain name, which marshmallow would also try as a path and as an index."""
        return obj.get(attr, default) if isinstance(obj, dict) else getattr(obj, attr, default)


class Problem(Schema):
    """An error (RFC 9457)."""

    type = fields.String("Always `about:blank`.", example="about:blank")
    title = fields.String("The status in words.")
    status = fields.Integer("The HTTP status.")
    detail = fields.String("What went wrong, for people.")
    code = fields.String("What went wrong, for programs; never renamed.")
    request_id = fields.String("Quote it when you ask for help.")
    errors = fields.Dict(
        "Messages by field, and by index for the items of a list; only with `validation_error`.",
        keys=ma.fields.String(),
        metadata={"additionalProperties": {"anyOf": [MESSAGES, {"type": "object", "additionalProperties": MESSAGES}]}},
    )


class PageQuery(Schema):
    """Which part of a list."""

    limit = fields.QueryInteger(
        f"Rows on a page, 1–{MAX_LIMIT}.", load_default=20, validate=validate.Range(1, MAX_LIMIT), example=20
    )
    cursor = fields.String(
        "`next_cursor` of the previous page; leave it out for the first page.",
        load_default=None,
        metadata={"maxLength": MAX_CURSOR_CHARS},
    )
