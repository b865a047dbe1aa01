"""Fields and schemas that every feature's requests and responses share."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.core.clock import as_rfc3339
from app.core.pagination import MAX_CURSOR_CHARS, MAX_LIMIT


class Schema(ma.Schema):
    """Unknown fields are refused, and answers keep the order of their declaration."""

    class Meta:
        unknown = ma.RAISE


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
    """An error, as RFC 9457 has it."""

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
    """Which part of a list to give."""

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
