"""Identifiers: UUIDv7 (RFC 9562), made in Python so that a row has its id before it is written."""

import uuid

import uuid_utils.compat
from werkzeug.routing import BaseConverter, ValidationError


def new_id() -> uuid.UUID:
    """A fresh UUIDv7: unique, and roughly in the order of creation, which keeps indexes compact."""
    return uuid_utils.compat.uuid7()


class IdConverter(BaseConverter):
    """`<id:…>` in a route: a UUID in its usual spelling; anything else is an unknown address (404)."""

    def to_python(self, value: str) -> uuid.UUID:
        try:
            parsed = uuid.UUID(value)
        except ValueError:
            raise ValidationError from None
        if str(parsed) != value.lower():
            raise ValidationError
        return parsed

    def to_url(self, value: uuid.UUID) -> str:
        return str(value)
