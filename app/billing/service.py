"""Use cases around the tier."""

from datetime import UTC, datetime
from typing import Any
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


def export_subscriptions(user_id: UUID) -> list[dict[str, Any]]:
    """All that made the user Pro, as plain JSON values, oldest first."""
    return [
        {
            "status": "granted",
            "reason": grant.reason,
            "created_at": json_time(grant.created_at),
            "ends_at": json_time(grant.ends_at),
            "revoked_at": json_time(grant.revoked_at),
        }
        for grant in queries.grants_of(user_id)
    ]


def close_account(user_id: UUID, *, now: datetime) -> None:
    """End what goes on being paid for, before the account's rows are deleted; call it outside a transaction.

    Raises AppError (502, 503) when that cannot be done now: then the account must stay.
    """


def json_time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None
