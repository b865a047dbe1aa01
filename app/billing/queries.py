"""Reading a user's tier."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import exists, or_, select

from app.billing.models import ProGrant
from app.core.database import db


def has_live_grant(user_id: UUID, now: datetime) -> bool:
    """Whether Pro was given by hand and still counts at `now`."""
    live = exists().where(
        ProGrant.user_id == user_id,
        ProGrant.revoked_at.is_(None),
        or_(ProGrant.ends_at.is_(None), ProGrant.ends_at > now),
    )
    return bool(db.session.scalar(select(live)))


def grants_of(user_id: UUID) -> list[ProGrant]:
    """Every grant of the user's, oldest first."""
    return list(db.session.scalars(select(ProGrant).where(ProGrant.user_id == user_id).order_by(ProGrant.created_at)))
