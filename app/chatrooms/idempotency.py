"""Idempotency keys: the same request sent again gives the first one's answer.

A key is written in the transaction of the request itself, while the user is locked: of parallel requests, the first
writes it and the others find it. Keys are kept for 24 hours, and only for requests that succeeded. The messages feature
rebuilds what a prompt was answered with.
"""

import hashlib
from datetime import datetime, timedelta
from http import HTTPStatus
from uuid import UUID

from app.chatrooms.models import IdempotencyKey
from app.core.db import db
from app.core.errors import AppError

LIFETIME = timedelta(hours=24)


class IdempotencyKeyReused(AppError):
    """The key was used before, for a different request."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new key for a new request."


def find_record(user_id: UUID, key: str, fingerprint: str, now: datetime) -> IdempotencyKey | None:
    """Return the key's record; None if the key is new or expired. Raises IdempotencyKeyReused for another request."""
    record = db.session.get(IdempotencyKey, (user_id, key))
    if record is None:
        return None
    if record.created_at <= now - LIFETIME:
        db.session.delete(record)
        db.session.flush()
        return None
    if record.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    return record


def fingerprint_of(*parts: str) -> str:
    """Return a hash that is the same for two requests which ask for the same."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
