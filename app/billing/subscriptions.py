"""Reading and writing the copies that the tier follows from.

Copying what Stripe says: the one way in which a subscription's row is ever written.

Webhooks, the reconciliation and an account's deletion all come through here.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from app.billing.models import FETCH_TICKETS, ProGrant, StripeCustomer, StripeEvent, Subscription
from app.core import settings
from app.core.db import db
from app.core.logging import log_event
from app.core.transactions import transaction
from app.integrations.stripe import ENDED, Payments, RemoteSubscription

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


log = logging.getLogger(__name__)

Fetch = Callable[[Payments], list[RemoteSubscription]]


@dataclass(frozen=True)
class Event:
    """A webhook's event, to be noted together with its effect."""

    id: str
    type: str


@dataclass(frozen=True)
class Change:
    """A copy that said something else before; `before` is None for a subscription that was not known."""

    subscription_id: str
    before: str | None
    after: str


def copy_subscriptions(
    customer_id: UUID,
    payments: Payments,
    fetch: Fetch,
    *,
    now: datetime,
    event: Event | None = None,
    customer_deleted: bool = False,
) -> list[Change]:
    """Fetch subscriptions of a customer and write what Stripe said, in one transaction with the event's id.

    The ticket is taken first, so that of two fetches at once the later one wins whichever writes last. Nothing
    is written when the event took effect before. Subscriptions whose user is gone are cancelled.
    Raises a PaymentsError; then nothing was written.
    """
    with transaction():
        ticket = next_ticket()
        has_owner = db.session.get_one(StripeCustomer, customer_id, populate_existing=True).user_id is not None
    remotes = fetch(payments)
    if not has_owner:
        remotes = [end(payments, remote) for remote in remotes]
    with transaction():
        if event is not None and not note_event(event.id, event.type, now):
            return []
        changes = [write(customer_id, remote, ticket, now) for remote in remotes]
        if customer_deleted:
            note_customer_deleted(customer_id, ticket, now)
    return [change for change in changes if change is not None]


def end(payments: Payments, remote: RemoteSubscription) -> RemoteSubscription:
    """Cancel what somebody paid for whose account is gone."""
    if remote.has_ended:
        return remote
    log_event(log, "ownerless_subscription_canceled", subscription=remote.id)
    return payments.cancel_subscription(remote.id)


def write(customer_id: UUID, remote: RemoteSubscription, ticket: int, now: datetime) -> Change | None:
    """Write one copy, in the caller's transaction; what it changed."""
    known = db.session.get(Subscription, remote.id, populate_existing=True)
    before = known.status if known else None
    shown = comparable(known) if known else None
    values = values_of(customer_id, remote)
    if not write_subscription(values | {"ticket": ticket, "fetched_at": now}):
        return None
    if shown == {name: values[name] for name in COMPARED}:
        return None
    log_event(log, "subscription_changed", subscription=remote.id, before=before or "none", after=remote.status)
    return Change(remote.id, before, remote.status)


COMPARED = ("status", "price_id", "current_period_start", "current_period_end", "cancel_at_period_end")


def comparable(row: Subscription) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COMPARED}


def values_of(customer_id: UUID, remote: RemoteSubscription) -> dict[str, Any]:
    """The columns of a copy. What is owed is owed from the start of its period on.

    Of several prices the one that makes it Pro is kept.
    """
    accepted, first = settings().stripe_pro_price_id, next(iter(remote.price_ids), None)
    return {
        "id": remote.id,
        "customer_id": customer_id,
        "status": remote.status,
        "price_id": next((price for price in remote.price_ids if price in accepted), first),
        "current_period_start": remote.period_start,
        "current_period_end": remote.period_end,
        "cancel_at_period_end": remote.cancel_at_period_end,
        "past_due_since": remote.period_start if remote.status == "past_due" else None,
        "created_at": remote.created_at,
        "ended_at": remote.ended_at,
    }
