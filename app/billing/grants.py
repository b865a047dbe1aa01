"""Pro given by hand, and taken back."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import update

from app.billing.models import ProGrant
from app.billing.queries import live_grant
from app.core.database import db
from app.core.transactions import transaction


def grant_pro(user_id: UUID, *, reason: str, ends_at: datetime | None, now: datetime) -> None:
    """Give Pro by hand, until `ends_at` (None: until it is revoked)."""
    with transaction():
        db.session.add(ProGrant(user_id=user_id, reason=reason, ends_at=ends_at, created_at=now))


def revoke_pro(user_id: UUID, *, now: datetime) -> int:
    """Take back every grant that is active; how many. What the user pays for is not touched."""
    statement = update(ProGrant).where(*live_grant(user_id, now)).values(revoked_at=now).returning(ProGrant.id)
    with transaction():
        return len(db.session.scalars(statement).all())
