"""Use cases around the tier."""

from datetime import datetime
from uuid import UUID

from app.billing import queries
from app.billing.models import ProGrant, Tier
from app.core.database import db
from app.core.transactions import transaction


def tier_of(user_id: UUID, now: datetime) -> Tier:
    """The user's tier at `now`, by one indexed query. Read it at each request: a token never says it."""
    return Tier.PRO if queries.has_live_grant(user_id, now) else Tier.BASIC


def grant_pro(user_id: UUID, *, reason: str, ends_at: datetime | None, now: datetime) -> None:
    """Give Pro by hand, until `ends_at` (None: until it is revoked)."""
    with transaction():
        db.session.add(ProGrant(user_id=user_id, reason=reason, ends_at=ends_at, created_at=now))
