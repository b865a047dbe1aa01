"""Our copies of Stripe's subscriptions, which the tier is computed from, and the only code that writes them."""

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
    """A corrected copy, by Stripe's id, and its status before (None: it was unknown) and after."""

    subscription: str
    before: str | None
    after: str


def copy_subscriptions(payments: Payments, customer_id: UUID, *, now: datetime) -> list[Change]:
    """Fetch all of a customer's subscriptions and write what Stripe says. Returns the changes. Safe to repeat.

    A ticket is taken before the fetch, so that the later of two parallel fetches wins, whichever writes last. If the
    user is gone, nobody may be charged any more: subscriptions that have not ended are canceled first. If Stripe lists
    nothing because the customer was deleted there, it ends here too. Raises PaymentsError; then nothing was written.
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
        in_order = sorted(fetched, key=lambda one: one.id)  # parallel transactions lock the rows in the same order
        changes = [write_copy(customer_id, one, ticket, now) for one in in_order]
    return [change for change in changes if change is not None]


def take_ticket() -> int:
    """A number above all those handed out before."""
    return db.session.scalars(select(FETCH_TICKETS.next_value())).one()


def write_copy(customer_id: UUID, remote: RemoteSubscription, ticket: int, now: datetime) -> Change | None:
    """Write one copy, in the caller's transaction. Returns the change, or None if nothing changed."""
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
    """The columns of a copy. A subscription that is past due is owed from the start of its period.

    Of several items, the first with a price of Pro counts, else the first.
    """
    values, pro_price_ids = asdict(remote), settings().stripe_pro_price_id
    items = values.pop("items")
    item = next((one for one in items if one["price_id"] in pro_price_ids), next(iter(items), NO_ITEM))
    owed_since = item["current_period_start"] if remote.status == "past_due" else None
    return values | item | {"customer_id": customer_id, "past_due_since": owed_since}


def upsert(values: dict[str, Any]) -> bool:
    """Insert a copy, or overwrite one with a lower ticket. Returns whether it was written.

    A subscription that stays past due keeps the start of the first period that is owed.
    """
    fresh = insert(Subscription).values(values)
    new = fresh.excluded
    earliest = func.least(Subscription.past_due_since, new.past_due_since)  # ignores nulls
    owed_since = {"past_due_since": case((new.status == "past_due", earliest))}
    replaced = {name: new[name] for name in values if name not in {"id", "customer_id", "created_at"}}
    statement = fresh.on_conflict_do_update(
        index_elements=[Subscription.id], set_=replaced | owed_since, where=Subscription.ticket < new.ticket
    )
    return db.session.execute(statement.returning(Subscription.id)).first() is not None


def end_customer(customer_id: UUID, *, now: datetime) -> None:
    """Mark a customer as deleted at Stripe, and end our copies: Stripe has canceled every subscription."""
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
    """Whether the user has a subscription for Pro that is live, paid for or past due."""
    live = exists().where(
        StripeCustomer.user_id == user_id,
        Subscription.customer_id == StripeCustomer.id,
        Subscription.status.in_(LIVE_STATUSES),
        Subscription.price_id.in_(settings().stripe_pro_price_id),
    )
    return bool(db.session.scalar(select(live)))


def dormant_subscriptions(customer_id: UUID) -> list[Subscription]:
    """The customer's subscriptions for a price of Pro that give nothing now, yet could be charged again."""
    dormant = (
        Subscription.customer_id == customer_id,
        Subscription.status.in_(DORMANT_STATUSES),
        Subscription.price_id.in_(settings().stripe_pro_price_id),
    )
    return list(db.session.scalars(select(Subscription).where(*dormant).order_by(Subscription.id)))


def has_unended_subscription(customer_id: UUID) -> bool:
    """Whether one of the customer's subscriptions has not ended, according to our copies."""
    unended = exists().where(Subscription.customer_id == customer_id, Subscription.status.not_in(ENDED))
    return bool(db.session.scalar(select(unended)))
