"""What has ended is deleted, a batch at a time; what is only counted stays as long as it counts."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, or_, select

from app.auth.codes import COUNT_WINDOW
from app.auth.models import AuthSession, NumberThrottle, OneTimeCode, Rotation
from app.auth.sessions import session_lifetime
from app.auth.throttles import PASSWORD_WINDOW, WRONG_CODES_WINDOW
from app.core.database import db
from app.core.transactions import transaction

BATCH = 500


def sweep(*, now: datetime) -> dict[str, int]:
    """Delete up to BATCH rows of each kind whose time is over; how many of each. Safe to run twice at once."""
    ended: list[tuple[str, type[OneTimeCode | NumberThrottle | AuthSession | Rotation], ColumnElement[bool]]] = [
        ("codes", OneTimeCode, OneTimeCode.expires_at < now - COUNT_WINDOW),
        ("throttles", NumberThrottle, NumberThrottle.touched_at < now - max(WRONG_CODES_WINDOW, PASSWORD_WINDOW)),
        ("sessions", AuthSession, over(now)),
        ("rotations", Rotation, Rotation.used_at < now - session_lifetime()),
    ]
    swept = {}
    for name, model, condition in ended:
        with transaction():
            key = model.__mapper__.primary_key[0]
            some = select(key).where(condition).limit(BATCH).with_for_update(skip_locked=True)
            gone = db.session.execute(delete(model).where(key.in_(some)).returning(key))
            swept[name] = len(gone.all())
    return swept


def over(now: datetime) -> ColumnElement[bool]:
    """A session that was revoked, or whose tokens have all expired."""
    return or_(AuthSession.revoked_at < now - timedelta(days=1), AuthSession.last_used_at < now - session_lifetime())
