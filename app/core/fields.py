"""The fields that schemas are made of: marshmallow's, each with a mandatory description.

A field that needs no description, such as the item of a list, is one of marshmallow's own.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.core.clock import as_rfc3339


class Described(ma.fields.Field[Any]):
    """A field with a description and an optional example."""

    def __init__(self, description: str, *args: Any, example: Any = ma.missing, **kwargs: Any) -> None:
        shown = {} if example is ma.missing else {"example": example}
        metadata = {"description": description} | shown | kwargs.pop("metadata", {})
        super().__init__(*args, metadata=metadata, **kwargs)


class String(Described, ma.fields.String): ...


class Url(Described, ma.fields.Url): ...


class UUID(Described, ma.fields.UUID): ...


class Integer(Described, ma.fields.Integer): ...


class Boolean(Described, ma.fields.Boolean): ...


class Date(Described, ma.fields.Date): ...


class List(Described, ma.fields.List[Any]): ...


class Dict(Described, ma.fields.Dict): ...


class Choice(Described, ma.fields.Enum[Any]):
    """One of an enumeration's values."""

    def __init__(self, description: str, enum: type[StrEnum], **kwargs: Any) -> None:
        super().__init__(description, enum, by_value=ma.fields.String, **kwargs)


class Preserialized(Described, ma.fields.Nested):
    """A nested document whose schema only describes it. Its value is given in the form in which it is sent."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return value


class Text(String):
    """Text of `min_chars` to `max_chars` characters after trimming, with no NUL character and no lone surrogate.

    PostgreSQL stores neither, and no client means to send them.
    """

    def __init__(
        self, description: str, *, max_chars: int, min_chars: int = 1, trim: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(description, **kwargs)
        self.metadata = {"minLength": min_chars, "maxLength": max_chars, **self.metadata}
        self.trim = trim
        self.length = validate.Length(min=min_chars, max=max_chars)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
            raise ma.ValidationError("Contains a character that is not text (NUL or a lone surrogate).")
        text = text.strip() if self.trim else text
        self.length(text)
        return text


class JsonBoolean(Boolean):
    """`true` or `false`, and none of the other spellings."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class QueryInteger(Integer):
    """A whole number in a query string, in plain digits: neither `1_0` nor digits of other scripts are accepted."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not re.fullmatch(r"-?[0-9]{1,9}", str(value)):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Timestamp(Described, ma.fields.DateTime):
    """RFC 3339 in UTC with `Z`, to the microsecond."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return as_rfc3339(value)
