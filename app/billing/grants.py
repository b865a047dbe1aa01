"""Pro given by hand: what was given, and taking it back."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import or_, select, update

from app.billing.models import ProGrant
from app.core.database import db
from app.core.transactions import transaction


def grants_of(user_id: UUID) -> Sequence[ProGrant]:
    """Every grant that the user ever had, the newest first."""
    statement = select(ProGrant).where(ProGrant.user_id == user_id).order_by(ProGrant.created_at.desc())
    return db.session.scalars(statement).all()


def revoke_pro(user_id: UUID, *, now: datetime) -> int:
    """Take back every grant that still counts; how many. What the user pays for is not touched."""
    live = (ProGrant.revoked_at.is_(None), or_(ProGrant.ends_at.is_(None), ProGrant.ends_at > now))
    statement = update(ProGrant).where(ProGrant.user_id == user_id, *live).values(revoked_at=now).returning(ProGrant.id)
    with transaction():
        return len(db.session.scalars(statement).all())
