"""Idempotency keys: the same request sent again gives the first one's answer.

A key is written in the transaction of what was asked for, under the user's lock: of parallel requests the first writes
it and the others find it. Kept 24 hours; only what was done is remembered. What a prompt's answer was, the messages
feature knows.
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
    """The key came before, with something else."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new key for a new request."


def find_record(user_id: UUID, key: str, fingerprint: str, now: datetime) -> IdempotencyKey | None:
    """What came under the key, or None. Raises IdempotencyKeyReused when it was another request."""
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
    """What makes two requests the same one."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
