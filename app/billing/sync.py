"""Copying what Stripe says: the one way in which a subscription's row is ever written.

Webhooks, the reconciliation and an account's deletion all come through here.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.billing import queries
from app.billing.models import StripeCustomer, Subscription
from app.core.database import db
from app.core.logs import log_event
from app.core.settings import settings
from app.core.transactions import transaction
from app.integrations.stripe_client import Payments
from app.integrations.stripe_objects import RemoteSubscription

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
        ticket = queries.next_ticket()
        has_owner = db.session.get_one(StripeCustomer, customer_id, populate_existing=True).user_id is not None
    remotes = fetch(payments)
    if not has_owner:
        remotes = [end(payments, remote) for remote in remotes]
    with transaction():
        if event is not None and not queries.note_event(event.id, event.type, now):
            return []
        changes = [write(customer_id, remote, ticket, now) for remote in remotes]
        if customer_deleted:
            queries.note_customer_deleted(customer_id, ticket, now)
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
    if not queries.write_subscription(values | {"ticket": ticket, "fetched_at": now}):
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
