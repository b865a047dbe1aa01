"""How long rows are kept that have ended: one table, and what deletes them after that."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, exists, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.dml import ReturningDelete

from app.auth import events, otp
from app.auth.models import ApiKey, AuthSession, NumberThrottle, OneTimeCode, RefreshToken, SecurityEvent
from app.auth.sessions import session_lifetime
from app.auth.throttles import PASSWORD_WINDOW, WRONG_CODES_WINDOW
from app.billing.models import StripeEvent
from app.billing.webhook import EVENTS_KEPT
from app.chatrooms import idempotency
from app.chatrooms.models import IdempotencyKey
from app.core.db import locked_keys
from app.core.transactions import delete_in_batches
from app.users.models import User

BATCH, TOKEN_BATCH = 500, 5_000
REVOKED_KEPT = timedelta(days=1)
UNVERIFIED_KEPT = timedelta(days=1)  # a signup whose number nobody has verified


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
        ("idempotency keys", IdempotencyKey.created_at, now - idempotency.LIFETIME),
        ("Stripe events", StripeEvent.received_at, now - EVENTS_KEPT),
    ]
    batches = {}
    for name, column, before in ended:
        model = column.class_
        key = model.__mapper__.primary_key
        old = select(*key).where(column < before)
        if model is User:
            old = old.where(User.verified_at.is_(None))
        old = old.order_by(column).limit(BATCH)
        if model is AuthSession:  # all tokens of 500 may be millions, too many for the time of one statement
            tokens = select(RefreshToken.id).where(RefreshToken.session_id.in_(old)).limit(TOKEN_BATCH)
            batches[f"refresh tokens of {name}"] = deletion(RefreshToken, tokens)
            empty = ~exists().where(RefreshToken.session_id == AuthSession.id)
            old = select(AuthSession.id).where(AuthSession.id.in_(old), empty)
        batches[name] = deletion(model, locked_keys(old))
    return dict(zip(batches, delete_in_batches(*batches.values()), strict=True))


def deletion(model: Any, keys: Select[Any]) -> ReturningDelete[Any]:
    """What deletes the rows with these keys, and returns the keys."""
    key = model.__mapper__.primary_key
    return delete(model).where(tuple_(*key).in_(keys)).returning(*key)
