"""Identifiers: UUIDv7 (RFC 9562), made in Python so that a row has its id before it is written."""

import uuid

import uuid_utils.compat
from werkzeug.routing import BaseConverter


def new_id() -> uuid.UUID:
    """A fresh UUIDv7: unique, and roughly in the order of creation, which keeps indexes compact."""
    return uuid_utils.compat.uuid7()


class IdConverter(BaseConverter):
    """`<id:…>` in a route: a UUID in its usual spelling; anything else is an unknown address (404).

    The pattern alone decides: a refusal in `to_python` would come too late where two rules share an address, and
    be answered with a 405.
    """

    regex = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"

    def to_python(self, value: str) -> uuid.UUID:
        return uuid.UUID(value)

    def to_url(self, value: uuid.UUID) -> str:
        return str(value)
