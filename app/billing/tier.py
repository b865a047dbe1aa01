"""Pro given by hand, and taken back.

Use cases around the tier, and what this feature offers to the others.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import update

from app.billing import subscriptions as queries
from app.billing.closing import close_account, is_closed
from app.billing.customers import disown_customers
from app.billing.models import ProGrant, Subscription, Tier
from app.billing.subscriptions import live_grant
from app.core import settings
from app.core.clock import as_rfc3339
from app.core.db import db
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


__all__ = ["close_account", "disown_customers", "export_subscriptions", "is_closed", "subscription_status", "tier_of"]


@dataclass(frozen=True)
class SubscriptionStatus:
    """What a user is told of the subscription. `status`: Stripe's, or `none`, or `granted`."""

    tier: Tier
    status: str
    current_period_end: datetime | None = None
    cancel_at_period_end: bool = False
    grace_until: datetime | None = None


def pro_terms() -> queries.ProTerms:
    """What makes a subscription Pro here."""
    return queries.ProTerms(settings().stripe_pro_price_id, timedelta(days=settings().stripe_grace_days))


def tier_of(user_id: UUID, now: datetime) -> Tier:
    """The user's tier at `now`, by one indexed query. Read it at each request: a token never says it."""
    return Tier.PRO if queries.is_pro(user_id, now, pro_terms()) else Tier.BASIC


def subscription_status(user_id: UUID, *, now: datetime) -> SubscriptionStatus:
    """The subscription that the tier comes from, else a grant, else the latest subscription."""
    found = queries.leading_subscription(user_id, now, pro_terms())
    if found is not None and found[1]:
        return status_of(found[0], Tier.PRO)
    granted = queries.find_grant(user_id, now)
    if granted is not None:
        return SubscriptionStatus(Tier.PRO, "granted", current_period_end=granted.ends_at)
    return status_of(found[0], Tier.BASIC) if found else SubscriptionStatus(Tier.BASIC, "none")


def status_of(subscription: Subscription, tier: Tier) -> SubscriptionStatus:
    terms = pro_terms()
    owed_since = subscription.past_due_since if subscription.price_id in terms.prices else None
    return SubscriptionStatus(
        tier=tier,
        status=subscription.status,
        current_period_end=subscription.current_period_end,
        cancel_at_period_end=subscription.cancel_at_period_end,
        grace_until=owed_since + terms.grace if owed_since else None,
    )


def export_subscriptions(user_id: UUID) -> list[dict[str, Any]]:
    """Every subscription and every grant by hand that the user ever had, oldest first, ready for JSON."""
    subscriptions = [
        {
            "id": row.id,
            "status": row.status,
            "price_id": row.price_id,
            "current_period_start": as_rfc3339(row.current_period_start),
            "current_period_end": as_rfc3339(row.current_period_end),
            "cancel_at_period_end": row.cancel_at_period_end,
            "created_at": as_rfc3339(row.created_at),
            "ended_at": as_rfc3339(row.ended_at),
        }
        for row in queries.subscriptions_of_user(user_id)
    ]
    grants = [
        {
            "status": "granted",
            "reason": grant.reason,
            "created_at": as_rfc3339(grant.created_at),
            "ends_at": as_rfc3339(grant.ends_at),
            "revoked_at": as_rfc3339(grant.revoked_at),
        }
        for grant in queries.grants_of(user_id)
    ]
    return subscriptions + grants
