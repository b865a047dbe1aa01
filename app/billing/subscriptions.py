"""Our copies of Stripe's subscriptions, from which the tier follows, and the one way in which they are written."""

import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, exists, func, select
from sqlalchemy.dialects.postgresql import insert

from app.billing.models import FETCH_TICKETS, StripeCustomer, Subscription
from app.core import settings
from app.core.db import db
from app.core.logging import log_event
from app.core.transactions import transaction
from app.integrations.stripe import ENDED, MissingAtStripe, Payments, RemoteSubscription

# https://docs.stripe.com/billing/subscriptions/overview
PRO_STATUSES = ("active", "trialing")
LIVE_STATUSES = (*PRO_STATUSES, "past_due")
DORMANT_STATUSES = ("incomplete", "unpaid", "paused")  # give nothing, yet a payment makes them active
NO_ITEM: dict[str, Any] = dict.fromkeys(("price_id", "current_period_start", "current_period_end"))
COMPARED = ("status", "price_id", "current_period_start", "current_period_end", "cancel_at_period_end")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """A copy that was corrected, by Stripe's id; `before` is None for a subscription that was not known."""

    subscription: str
    before: str | None
    after: str


def copy_subscriptions(payments: Payments, customer_id: UUID, *, now: datetime) -> list[Change]:
    """Fetch all of a customer's subscriptions and write what Stripe says; what that changed. Safe to repeat.

    A ticket is taken before the fetch, so that of two fetches at once the later one wins, whichever writes last.
    Where the user is gone, nobody may be charged any more: what is not ended is canceled first. A customer that was
    deleted at Stripe, which may list nothing of it, ends here too. Raises a PaymentsError; then nothing was written.
    """
    with transaction():
        ticket = take_ticket()
        customer = db.session.get_one(StripeCustomer, customer_id, populate_existing=True)
    stripe_id = str(customer.stripe_id)
    try:
        fetched = payments.subscriptions(stripe_id)
        ownerless = [] if customer.user_id else [one for one in fetched if not one.has_ended]
        for one in ownerless:
            log_event(log, "ownerless_subscription_canceled", subscription=one.id)
            payments.cancel_subscription(one.id)
        if ownerless:
            fetched = payments.subscriptions(stripe_id)
    except MissingAtStripe:
        if not payments.is_deleted(stripe_id):
            raise
        end_customer(customer_id, now=now)
        return []
    with transaction():
        in_order = sorted(fetched, key=lambda one: one.id)  # in which others write them at the same time
        changes = [write_copy(customer_id, one, ticket, now) for one in in_order]
    return [change for change in changes if change is not None]


def take_ticket() -> int:
    """A number above all those handed out before."""
    return db.session.scalars(select(FETCH_TICKETS.next_value())).one()


def write_copy(customer_id: UUID, remote: RemoteSubscription, ticket: int, now: datetime) -> Change | None:
    """Write one copy, in the caller's transaction; what that changed."""
    copy = db.session.get(Subscription, remote.id, populate_existing=True)
    before = {name: getattr(copy, name) for name in COMPARED} if copy else {}
    values = values_of(customer_id, remote)
    written = upsert(values | {"ticket": ticket, "fetched_at": now})
    if not written or before == {name: values[name] for name in COMPARED}:
        return None
    change = Change(remote.id, before.get("status"), remote.status)
    log_event(log, "subscription_changed", subscription=remote.id, before=change.before or "none", after=change.after)
    return change


def values_of(customer_id: UUID, remote: RemoteSubscription) -> dict[str, Any]:
    """The columns of a copy. What is owed is owed from the start of its period on.

    Of several items the one that makes it Pro is kept.
    """
    values, accepted = asdict(remote), settings().stripe_pro_price_id
    items = values.pop("items")
    kept = next((one for one in items if one["price_id"] in accepted), next(iter(items), NO_ITEM))
    owed_since = kept["current_period_start"] if remote.status == "past_due" else None
    return values | kept | {"customer_id": customer_id, "past_due_since": owed_since}


def upsert(values: dict[str, Any]) -> bool:
    """Insert a copy, or overwrite one with a lower ticket; whether it was written.

    One that stays past due keeps the start of the first period owed.
    """
    fresh = insert(Subscription).values(values)
    new = fresh.excluded
    earliest = func.least(Subscription.past_due_since, new.past_due_since)  # of those that there are
    owed_since = {"past_due_since": case((new.status == "past_due", earliest))}
    replaced = {name: new[name] for name in values if name not in {"id", "customer_id", "created_at"}}
    statement = fresh.on_conflict_do_update(
        index_elements=[Subscription.id], set_=replaced | owed_since, where=Subscription.ticket < new.ticket
    )
    return db.session.execute(statement.returning(Subscription.id)).first() is not None


def end_customer(customer_id: UUID, *, now: datetime) -> None:
    """The customer was deleted at Stripe, which cancels every subscription."""
    unended = (Subscription.customer_id == customer_id, Subscription.status.not_in(ENDED))
    with transaction():
        ticket = take_ticket()
        customer = db.session.get_one(StripeCustomer, customer_id)
        customer.deleted_at = customer.deleted_at or now
        locked = select(Subscription).where(*unended, Subscription.ticket < ticket).with_for_update()
        for copy in db.session.scalars(locked.order_by(Subscription.id), execution_options={"populate_existing": True}):
            log_event(log, "subscription_changed", subscription=copy.id, before=copy.status, after="canceled")
            copy.status, copy.past_due_since, copy.ended_at = "canceled", None, now
            copy.ticket, copy.fetched_at = ticket, now


def has_live_subscription(user_id: UUID) -> bool:
    """Whether one for Pro is live, paid for or owed."""
    live = exists().where(
        StripeCustomer.user_id == user_id,
        Subscription.customer_id == StripeCustomer.id,
        Subscription.status.in_(LIVE_STATUSES),
        Subscription.price_id.in_(settings().stripe_pro_price_id),
    )
    return bool(db.session.scalar(select(live)))


def dormant_subscriptions(customer_id: UUID) -> list[Subscription]:
    """Those for Pro that give nothing, yet could be charged again. One for another price is no Pro."""
    dormant = (
        Subscription.customer_id == customer_id,
        Subscription.status.in_(DORMANT_STATUSES),
        Subscription.price_id.in_(settings().stripe_pro_price_id),
    )
    return list(db.session.scalars(select(Subscription).where(*dormant).order_by(Subscription.id)))


def has_unended_subscription(customer_id: UUID) -> bool:
    """Whether one of the customer's has not ended, as far as we know."""
    unended = exists().where(Subscription.customer_id == customer_id, Subscription.status.not_in(ENDED))
    return bool(db.session.scalar(select(unended)))
