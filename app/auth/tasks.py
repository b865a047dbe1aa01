"""What has ended is deleted, a batch at a time; what is only counted stays as long as it counts.

The worker's entry points to this feature. Every task takes ids, and may run twice.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery import shared_task
from sqlalchemy import delete, select
from sqlalchemy.orm import InstrumentedAttribute

from app.auth import otp as delivery
from app.auth.models import AuthSession, NumberThrottle, OneTimeCode, Rotation
from app.auth.otp import COUNT_WINDOW
from app.auth.sessions import session_lifetime
from app.auth.throttles import PASSWORD_WINDOW, WRONG_CODES_WINDOW
from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from app.users.models import User

BATCH = 500
REVOKED_KEPT = timedelta(days=1)
UNVERIFIED_KEPT = timedelta(days=1)  # a signup whose number nobody has proven


def delete_ended(*, now: datetime) -> dict[str, int]:
    """Delete up to BATCH rows of each kind whose time is over; how many of each. Safe to run twice at once."""
    # Each by a column with an index, whose order leads to the oldest without a look at the others.
    ended: list[tuple[str, InstrumentedAttribute[Any], datetime]] = [
        ("codes", OneTimeCode.expires_at, now - COUNT_WINDOW),
        ("throttles", NumberThrottle.touched_at, now - max(WRONG_CODES_WINDOW, PASSWORD_WINDOW)),
        ("revoked sessions", AuthSession.revoked_at, now - REVOKED_KEPT),
        ("sessions", AuthSession.last_used_at, now - session_lifetime()),
        ("rotations", Rotation.used_at, now - session_lifetime()),
        ("signups", User.created_at, now - UNVERIFIED_KEPT),
    ]
    swept = {}
    for name, column, before in ended:
        with transaction():
            model = column.class_
            key = model.__mapper__.primary_key[0]
            old = select(key).where(column < before)
            if model is User:
                old = old.where(User.verified_at.is_(None))
            some = old.order_by(column).limit(BATCH).with_for_update(skip_locked=True)
            gone = db.session.execute(delete(model).where(key.in_(some)).returning(key))
            swept[name] = len(gone.all())
    return swept


@shared_task(name=delivery.SEND_CODE)
def send_code(code_id: str) -> None:
    """Send a code's message; does nothing when it was sent, or when the code has ended."""
    delivery.send_code(UUID(code_id), now=utc_now())


@shared_task(name="auth.sweep")
def sweep() -> None:
    """Queue what waits to be sent again; delete codes, counters and sessions that are over."""
    delivery.enqueue_unsent(utc_now())
    delete_ended(now=utc_now())
