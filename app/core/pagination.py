"""Keyset pagination: opaque cursors that neither skip nor repeat while rows are inserted."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from app.core.errors import AppError

MAX_LIMIT = 100
MAX_CURSOR_CHARS = 200

Row = TypeVar("Row")


class InvalidCursor(AppError):
    """The cursor is none that this service gave out."""

    status, code = HTTPStatus.BAD_REQUEST, "invalid_cursor"
    detail = "The cursor is not one that this list gave out."


@dataclass(frozen=True)
class Page(Generic[Row]):
    """A part of a list, and where the next part begins (None: there is none)."""

    items: list[Row]
    next_cursor: str | None


def encode_cursor(*parts: object) -> str:
    """The place behind a row, as text for a URL."""
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
    """Turn up to `limit + 1` rows into a page: the one too many tells that there is a next."""
    items = list(rows[:limit])
    return Page(items, cursor_of(items[-1]) if len(rows) > limit else None)
