"""Fields and schemas that all features share, and keyset pagination.

Cursors are opaque and neither skip nor repeat while rows are inserted.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import marshmallow as ma
from marshmallow import validate

from app.core.clock import as_rfc3339
from app.core.errors import AppError

MAX_LIMIT = 100
MAX_CURSOR_CHARS = 200

Row = TypeVar("Row")


class InvalidCursor(AppError):
    """The cursor is not one of this service's."""

    status, code = HTTPStatus.BAD_REQUEST, "invalid_cursor"
    detail = "The cursor is not one that this list gave out."


@dataclass(frozen=True)
class Page(Generic[Row]):
    """A part of a list, and the cursor of the next part (None: there is none)."""

    items: list[Row]
    next_cursor: str | None


def encode_cursor(*parts: object) -> str:
    """The position after a row, as text for a URL."""
    return base64.urlsafe_b64encode("|".join(map(str, parts)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *parsers: Callable[[str], Any]) -> list[Any]:
    """The parts of a cursor, each through its parser. Raises InvalidCursor."""
    try:
        if len(cursor) > MAX_CURSOR_CHARS:
            raise InvalidCursor
        padded = cursor + "=" * (-len(cursor) % 4)
        parts = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").split("|")
        return [parse(part) for parse, part in zip(parsers, parts, strict=True)]
    except (ValueError, OverflowError, binascii.Error):
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
        """A field's value: by its name alone, which marshmallow would try as a path and as an index as well."""
        return obj.get(attr, default) if isinstance(obj, dict) else getattr(obj, attr, default)


class Ready(ma.fields.Nested):
    """A nested document that its schema describes, and that is given in the form in which it is sent."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return value


class Text(ma.fields.String):
    """Text within `min_chars` and `max_chars`, after trimming; no NUL character, no lone surrogate.

    PostgreSQL stores neither of the two, and no client means them.
    """

    def __init__(self, *, max_chars: int, min_chars: int = 1, trim: bool = True, **kwargs: Any) -> None:
        metadata = {"minLength": min_chars, "maxLength": max_chars} | dict(kwargs.pop("metadata", {}))
        super().__init__(metadata=metadata, **kwargs)
        self.trim = trim
        self.length = validate.Length(min=min_chars, max=max_chars)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
            raise ma.ValidationError("Contains a character that is not text (NUL or a lone surrogate).")
        text = text.strip() if self.trim else text
        self.length(text)
        return text


class StrictBoolean(ma.fields.Boolean):
    """`true` or `false`, and none of the other spellings."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class TrueOrFalse(ma.fields.Boolean):
    """`true` or `false` in a query string, and none of the other spellings."""

    truthy = {"true"}  # noqa: RUF012 - as marshmallow has it
    falsy = {"false"}  # noqa: RUF012


class WholeNumber(ma.fields.Integer):
    """A whole number in plain digits, as a query string has it: `1_0` is none, nor are digits of other scripts."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not re.fullmatch(r"-?[0-9]{1,9}", str(value)):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Timestamp(ma.fields.DateTime):
    """RFC 3339 in UTC with `Z`, to the microsecond."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return as_rfc3339(value)


class Problem(Schema):
    """An error (RFC 9457)."""

    type = ma.fields.String(metadata={"description": "Always `about:blank`.", "example": "about:blank"})
    title = ma.fields.String(metadata={"description": "The status in words."})
    status = ma.fields.Integer(metadata={"description": "The HTTP status."})
    detail = ma.fields.String(metadata={"description": "What went wrong, for people."})
    code = ma.fields.String(metadata={"description": "What went wrong, for programs; never renamed."})
    request_id = ma.fields.String(metadata={"description": "Quote it when you ask for help."})
    errors = ma.fields.Dict(
        keys=ma.fields.String(),
        metadata={"description": "Messages by field; on `validation_error` only."},
    )


class PageQuery(Schema):
    """Which part of a list."""

    limit = WholeNumber(
        load_default=20,
        validate=validate.Range(1, MAX_LIMIT),
        metadata={"description": f"Rows on a page, 1–{MAX_LIMIT}.", "example": 20},
    )
    cursor = ma.fields.String(
        load_default=None,
        metadata={
            "description": "`next_cursor` of the page before; absent for the first page.",
            "maxLength": MAX_CURSOR_CHARS,
        },
    )
