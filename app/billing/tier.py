"""A user's tier, computed from our copies of Stripe's subscriptions and from Pro given by hand."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, String, and_, any_, bindparam, exists, false, func, or_, select, update

from app.billing.models import ProGrant, StripeCustomer, Subscription, Tier
from app.billing.subscriptions import LIVE_STATUSES, PRO_STATUSES
from app.core import settings
from app.core.clock import as_rfc3339
from app.core.db import db
from app.core.transactions import transaction


@dataclass(frozen=True)
class SubscriptionStatus:
    """What a user sees of the subscription. `status`: Stripe's, or `none`, or `granted`."""

    tier: Tier
    status: str
    current_period_end: datetime | None = None
    cancel_at_period_end: bool = False
    grace_until: datetime | None = None


# Conditions for statements that are built once and run with `pro_values`. GIVES_PRO: a subscription counts as Pro (it
# is for one of the prices and live, and not past due for longer than the grace). ACTIVE_GRANT: a grant counts. IS_PRO:
# a user has either of them.
GIVES_PRO = func.coalesce(
    and_(
        Subscription.price_id == any_(bindparam("prices", type_=ARRAY(String))),
        or_(
            Subscription.status.in_(PRO_STATUSES),
            and_(Subscription.status == "past_due", Subscription.past_due_since > bindparam("owed_after")),
        ),
    ),
    false(),  # null without a price or `past_due_since`, and PostgreSQL would sort null before true
)
ACTIVE_GRANT = and_(
    ProGrant.user_id == bindparam("user"),
    ProGrant.revoked_at.is_(None),
    or_(ProGrant.ends_at.is_(None), ProGrant.ends_at > bindparam("now")),
)
OF_USER = and_(StripeCustomer.user_id == bindparam("user"), Subscription.customer_id == StripeCustomer.id)
IS_PRO = or_(exists().where(ACTIVE_GRANT), exists().where(OF_USER, GIVES_PRO))
TIER = select(IS_PRO)
# The subscription to show (first choice: one that gives Pro, then one that is live, then the latest), and whether it
# gives Pro.
LEADING = (
    select(Subscription, GIVES_PRO)
    .join(StripeCustomer, OF_USER)
    .order_by(GIVES_PRO.desc(), Subscription.status.in_(LIVE_STATUSES).desc(), Subscription.created_at.desc())
    .limit(1)
)
LONGEST_GRANT = select(ProGrant).where(ACTIVE_GRANT).order_by(ProGrant.ends_at.desc().nulls_first()).limit(1)


def pro_values(user_id: UUID, now: datetime) -> dict[str, Any]:
    """The parameters of IS_PRO and its parts."""
    return {"user": user_id, "now": now, "prices": settings().stripe_pro_price_id, "owed_after": now - grace()}


def grace() -> timedelta:
    """How long an unpaid subscription stays Pro."""
    return timedelta(days=settings().stripe_grace_days)


def tier_of(user_id: UUID, now: datetime) -> Tier:
    """The user's tier at `now`, by one indexed query. Read it at each request: no token carries it."""
    return tier_named(db.session.scalar(TIER, pro_values(user_id, now)))


def tier_named(is_pro: bool | None) -> Tier:
    return Tier.PRO if is_pro else Tier.BASIC


def subscription_status(user_id: UUID, *, now: datetime) -> SubscriptionStatus:
    """The subscription that the tier comes from, else the grant that lasts longest, else the latest subscription."""
    values = pro_values(user_id, now)
    subscription, gives_pro = db.session.execute(LEADING, values).first() or (None, False)
    if not gives_pro and (grant := db.session.scalar(LONGEST_GRANT, values)):
        return SubscriptionStatus(Tier.PRO, "granted", current_period_end=grant.ends_at)
    if subscription is None:
        return SubscriptionStatus(Tier.BASIC, "none")
    owed_since = subscription.past_due_since if subscription.price_id in settings().stripe_pro_price_id else None
    return SubscriptionStatus(
        tier=tier_named(gives_pro),
        status=subscription.status,
        current_period_end=subscription.current_period_end,
        cancel_at_period_end=subscription.cancel_at_period_end,
        grace_until=owed_since + grace() if owed_since else None,
    )


def grant_pro(user_id: UUID, *, reason: str, ends_at: datetime | None, now: datetime) -> None:
    """Give Pro by hand, until `ends_at` (None: until it is revoked)."""
    with transaction():
        db.session.add(ProGrant(user_id=user_id, reason=reason, ends_at=ends_at, created_at=now))


def revoke_pro(user_id: UUID, *, now: datetime) -> int:
    """Revoke every active grant. Returns how many. What the user pays for is not touched."""
    statement = update(ProGrant).where(ACTIVE_GRANT).values(revoked_at=now).returning(ProGrant.id)
    with transaction():
        return len(db.session.scalars(statement, {"user": user_id, "now": now}).all())


def grants_of(user_id: UUID) -> list[ProGrant]:
    """Every grant of the user's, oldest first."""
    return list(db.session.scalars(select(ProGrant).where(ProGrant.user_id == user_id).order_by(ProGrant.created_at)))


def export_subscriptions(user_id: UUID) -> list[dict[str, Any]]:
    """Every subscription, then every grant by hand, that the user ever had, oldest first, ready for JSON."""
    own = select(Subscription).join(StripeCustomer, StripeCustomer.id == Subscription.customer_id)
    own = own.where(StripeCustomer.user_id == user_id).order_by(Subscription.created_at, Subscription.id)
    period = "current_period_start", "current_period_end", "cancel_at_period_end"
    subscriptions = [
        columns_for_json(subscription, "id", "status", "price_id", *period, "created_at", "ended_at")
        for subscription in db.session.scalars(own)
    ]
    grants = [
        {"status": "granted"} | columns_for_json(grant, "reason", "created_at", "ends_at", "revoked_at")
        for grant in grants_of(user_id)
    ]
    return subscriptions + grants


def columns_for_json(row: Subscription | ProGrant, *names: str) -> dict[str, Any]:
    """The named columns of a row, in their order; times as RFC 3339."""
    values = ((name, getattr(row, name)) for name in names)
    return {name: as_rfc3339(value) if isinstance(value, datetime) else value for name, value in values}
