"""The worker's entry points: sending codes, and deleting what has ended. Every task may run twice."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery import shared_task
from sqlalchemy import Select, delete, exists, select
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.dml import ReturningDelete

from app.auth import events, otp
from app.auth.models import ApiKey, AuthSession, NumberThrottle, OneTimeCode, RefreshToken, SecurityEvent
from app.auth.sessions import session_lifetime
from app.auth.throttles import PASSWORD_WINDOW, WRONG_CODES_WINDOW
from app.core.clock import utc_now
from app.core.db import locked_keys
from app.core.transactions import delete_in_batches
from app.users.models import User

BATCH, TOKEN_BATCH = 500, 5_000
REVOKED_KEPT = timedelta(days=1)
UNVERIFIED_KEPT = timedelta(days=1)  # a signup whose number nobody has verified


@shared_task(name=otp.SEND_CODE)
def send_code(code_id: str) -> None:
    """Send a code's message; does nothing when it was sent, or when the code has ended."""
    otp.send_message(UUID(code_id), now=utc_now())


@shared_task(name="auth.sweep")
def sweep() -> None:
    """Queue the messages that are still unsent; delete what has ended, of each kind that `delete_ended` knows."""
    otp.enqueue_unsent(utc_now())
    delete_ended(now=utc_now())


def delete_ended(*, now: datetime) -> dict[str, int]:
    """Delete ended rows, as `delete_in_batches` does; how many of each kind. Safe to run twice at once."""
    # An index on each column leads to the oldest rows without a look at the others.
    ended: list[tuple[str, InstrumentedAttribute[Any], datetime]] = [
        ("codes", OneTimeCode.expires_at, now - otp.COUNT_WINDOW),
        ("throttles", NumberThrottle.touched_at, now - max(WRONG_CODES_WINDOW, PASSWORD_WINDOW)),
        ("revoked sessions", AuthSession.revoked_at, now - REVOKED_KEPT),
        ("expired sessions", AuthSession.last_used_at, now - session_lifetime()),
        ("revoked API keys", ApiKey.revoked_at, now - REVOKED_KEPT),
        ("expired API keys", ApiKey.expires_at, now - REVOKED_KEPT),
        ("refresh tokens", RefreshToken.used_at, now - session_lifetime()),
        ("security events", SecurityEvent.created_at, now - events.SHOWN_FOR),
        ("signups", User.created_at, now - UNVERIFIED_KEPT),
    ]
    batches = {}
    for name, column, before in ended:
        model = column.class_
        key = model.__mapper__.primary_key[0]
        old = select(key).where(column < before)
        if model is User:
            old = old.where(User.verified_at.is_(None))
        old = old.order_by(column).limit(BATCH)
        if model is AuthSession:  # all tokens of 500 may be millions, too many for the time of one statement
            tokens = select(RefreshToken.id).where(RefreshToken.session_id.in_(old)).limit(TOKEN_BATCH)
            batches[f"refresh tokens of {name}"] = deletion(RefreshToken, tokens)
            old = select(key).where(key.in_(old), ~exists().where(RefreshToken.session_id == AuthSession.id))
        batches[name] = deletion(model, locked_keys(old))
    return dict(zip(batches, delete_in_batches(*batches.values()), strict=True))


def deletion(model: Any, keys: Select[Any]) -> ReturningDelete[Any]:
    """What deletes the rows with these keys, and returns the keys."""
    key = model.__mapper__.primary_key[0]
    return delete(model).where(key.in_(keys)).returning(key)
