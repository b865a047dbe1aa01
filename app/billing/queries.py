"""Reading and writing the copies that the tier follows from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from app.billing.models import FETCH_TICKETS, ProGrant, StripeCustomer, StripeEvent, Subscription
from app.core.database import db
from app.integrations.stripe_objects import ENDED

PRO_STATUSES = ("active", "trialing")
# https://docs.stripe.com/billing/subscriptions/overview
LIVE_STATUSES = (*PRO_STATUSES, "past_due")
DORMANT_STATUSES = ("incomplete", "unpaid", "paused")  # give nothing, yet a payment makes them active


@dataclass(frozen=True)
class ProTerms:
    """What makes a subscription Pro: it is for one of these prices, and owed for less than `grace` if it is owed."""

    prices: Sequence[str]
    grace: timedelta


def gives_pro(now: datetime, terms: ProTerms) -> ColumnElement[bool]:
    """Whether a subscription counts as Pro at `now`."""
    in_grace = and_(Subscription.status == "past_due", Subscription.past_due_since > now - terms.grace)
    return and_(Subscription.price_id.in_(terms.prices), or_(Subscription.status.in_(PRO_STATUSES), in_grace))


def live_grant(user_id: UUID, now: datetime) -> list[ColumnElement[bool]]:
    """The conditions of a grant by hand that counts at `now`."""
    endless_or_later = or_(ProGrant.ends_at.is_(None), ProGrant.ends_at > now)
    return [ProGrant.user_id == user_id, ProGrant.revoked_at.is_(None), endless_or_later]


def is_pro(user_id: UUID, now: datetime, terms: ProTerms) -> bool:
    """Whether a grant or a subscription makes the user Pro at `now`, by one query."""
    granted = exists().where(*live_grant(user_id, now))
    subscribed = exists().where(
        StripeCustomer.user_id == user_id,
        Subscription.customer_id == StripeCustomer.id,
        gives_pro(now, terms),
    )
    return bool(db.session.scalar(select(or_(granted, subscribed))))


def find_grant(user_id: UUID, now: datetime) -> ProGrant | None:
    """The grant that counts at `now` and lasts longest."""
    statement = select(ProGrant).where(*live_grant(user_id, now)).order_by(ProGrant.ends_at.desc().nulls_first())
    return db.session.scalar(statement.limit(1))


def leading_subscription(user_id: UUID, now: datetime, terms: ProTerms) -> tuple[Subscription, bool] | None:
    """The subscription to tell the user of (one that gives Pro, one that lives, the latest), and whether it is Pro."""
    pro = gives_pro(now, terms)
    statement = (
        select(Subscription, pro)
        .join(StripeCustomer, StripeCustomer.id == Subscription.customer_id)
        .where(StripeCustomer.user_id == user_id)
        .order_by(pro.desc(), Subscription.status.in_(LIVE_STATUSES).desc(), Subscription.created_at.desc())
        .limit(1)
    )
    row = db.session.execute(statement).first()
    return (row[0], bool(row[1])) if row else None


def subscriptions_of_user(user_id: UUID) -> list[Subscription]:
    """Every subscription that the user ever had, oldest first."""
    statement = select(Subscription).join(StripeCustomer, StripeCustomer.id == Subscription.customer_id)
    ordered = statement.where(StripeCustomer.user_id == user_id).order_by(Subscription.created_at, Subscription.id)
    return list(db.session.scalars(ordered))


def has_live_subscription(user_id: UUID, prices: Sequence[str]) -> bool:
    """Whether one for any of these prices lives, paid for or owed."""
    live = exists().where(
        StripeCustomer.user_id == user_id,
        Subscription.customer_id == StripeCustomer.id,
        Subscription.status.in_(LIVE_STATUSES),
        Subscription.price_id.in_(prices),
    )
    return bool(db.session.scalar(select(live)))


def unended_subscription_ids(customer_id: UUID) -> list[str]:
    statement = select(Subscription.id).where(Subscription.customer_id == customer_id)
    return list(db.session.scalars(statement.where(Subscription.status.not_in(ENDED)).order_by(Subscription.id)))


def next_ticket() -> int:
    """A number above all those handed out before; take it before asking Stripe."""
    return db.session.execute(select(FETCH_TICKETS.next_value())).scalar_one()


def note_event(event_id: str, kind: str, now: datetime) -> bool:
    """Write down that an event takes effect in this transaction; False when it did before."""
    statement = insert(StripeEvent).values(id=event_id, type=kind, received_at=now).on_conflict_do_nothing()
    return db.session.execute(statement.returning(StripeEvent.id)).first() is not None


def knows_event(event_id: str) -> bool:
    return bool(db.session.scalar(select(exists().where(StripeEvent.id == event_id))))


def forget_events(before: datetime, *, at_most: int) -> int:
    """Delete old event ids, in the caller's transaction; how many."""
    old = select(StripeEvent.id).where(StripeEvent.received_at < before).limit(at_most)
    return int(db.session.execute(delete(StripeEvent).where(StripeEvent.id.in_(old))).rowcount)  # type: ignore[attr-defined]


def write_subscription(values: dict[str, Any]) -> bool:
    """Insert a copy, or overwrite one with a lower ticket; whether it was written.

    Somebody who stays past due keeps the start of the first period owed.
    """
    fresh = insert(Subscription).values(values)
    new = fresh.excluded
    still_owed = and_(Subscription.status == "past_due", new.status == "past_due")
    earliest = func.least(Subscription.past_due_since, new.past_due_since)
    owed_since = {"past_due_since": case((still_owed, earliest), else_=new.past_due_since)}
    replaced = {name: new[name] for name in values if name not in {"id", "customer_id", "created_at"}}
    statement = fresh.on_conflict_do_update(
        index_elements=[Subscription.id], set_=replaced | owed_since, where=Subscription.ticket < fresh.excluded.ticket
    )
    return db.session.execute(statement.returning(Subscription.id)).first() is not None


def note_customer_deleted(customer_id: UUID, ticket: int, now: datetime) -> None:
    """The customer is no more, and with it whatever subscription Stripe said nothing of."""
    customer = db.session.get_one(StripeCustomer, customer_id)
    customer.deleted_at = customer.deleted_at or now
    lost = (Subscription.customer_id == customer_id, Subscription.status.not_in(ENDED), Subscription.ticket < ticket)
    values = {"status": "canceled", "past_due_since": None, "ended_at": now, "ticket": ticket, "fetched_at": now}
    db.session.execute(update(Subscription).where(*lost).values(values))


def grants_of(user_id: UUID) -> list[ProGrant]:
    """Every grant of the user's, oldest first."""
    return list(db.session.scalars(select(ProGrant).where(ProGrant.user_id == user_id).order_by(ProGrant.created_at)))
