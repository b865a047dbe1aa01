"""Stripe's webhook: what an event is about, and what it leads to.

An event only says that something happened. What to believe is fetched from Stripe, so events may come twice,
late, in any order, and in the shape of any API version. It is applied before the answer: see decision 0011.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import Counter

from app.billing.customers import find_customer
from app.billing.errors import InvalidSignature
from app.billing.models import StripeCustomer
from app.billing.stripe_connection import required, stripe_calls
from app.billing.subscriptions import NotedEvent, copy_subscriptions, knows_event, unended_subscription_ids
from app.core.logging import log_event
from app.core.transactions import transaction
from app.integrations.stripe import EventRejected, Payments, PaymentsRejected, RemoteSubscription, id_of, read_event

log = logging.getLogger(__name__)

WEBHOOKS = Counter("stripe_webhooks", "Webhooks of Stripe by type of event and result.", ["type", "result"])


def receive(body: bytes, signature: str, *, now: datetime) -> None:
    """Take a webhook. When this returns, the event has had its effect, now or before, or needs none.

    Raises InvalidSignature; PaymentProviderError, ServiceUnavailable: then nothing was written, send it again.
    """
    secret = required("stripe_webhook_secret")
    try:
        event = read_event(body, signature, secret, now_seconds=now.timestamp())
    except EventRejected as error:
        log.warning("A webhook was refused: %s", error)
        WEBHOOKS.labels("(unverified)", "refused").inc()
        raise InvalidSignature from None
    handler = HANDLERS.get(event["type"])
    if handler is None:
        WEBHOOKS.labels("(other)", "ignored").inc()
        return
    item = event["data"].get("object") if isinstance(event.get("data"), dict) else None
    if not isinstance(item, dict):
        raise InvalidSignature
    try:
        handler(Event(event["id"], event["type"], item, now))
    except Exception:
        WEBHOOKS.labels(event["type"], "failed").inc()
        raise
    WEBHOOKS.labels(event["type"], "taken").inc()


@dataclass(frozen=True)
class Event:
    """A verified event: what happened, and the object that it happened to."""

    id: str
    type: str
    item: dict[str, Any]
    now: datetime


def checkout_ended(event: Event) -> None:
    """A Checkout session was completed, or its payment came or failed later: copy the subscription it bought."""
    log_event(log, "checkout_ended", event_id=event.id, payment_status=event.item.get("payment_status") or "-")
    copy_subscription(event, event.item.get("customer"), event.item.get("subscription"))


def subscription_changed(event: Event) -> None:
    """A subscription began, changed or ended: copy it."""
    copy_subscription(event, event.item.get("customer"), event.item)


def invoice_settled(event: Event) -> None:
    """An invoice was paid, or could not be: copy the subscription it is for.

    An invoice names it under `parent`; before API version 2025-03-31 it had it at the top.
    """
    parent = event.item.get("parent")
    details = parent.get("subscription_details") if isinstance(parent, dict) else None
    named = details.get("subscription") if isinstance(details, dict) else None
    copy_subscription(event, event.item.get("customer"), named or event.item.get("subscription"))


def customer_deleted(event: Event) -> None:
    """A customer was deleted at Stripe, and every subscription with it: copy what there is left of them."""
    customer = customer_of(event, event.item)
    if customer is not None:
        with transaction():
            ids = unended_subscription_ids(customer.id)
        copy(event, customer, ids, deleted=True)


HANDLERS: dict[str, Callable[[Event], None]] = {
    "checkout.session.completed": checkout_ended,
    "checkout.session.async_payment_succeeded": checkout_ended,
    "checkout.session.async_payment_failed": checkout_ended,
    "customer.subscription.created": subscription_changed,
    "customer.subscription.updated": subscription_changed,
    "customer.subscription.deleted": subscription_changed,
    "customer.subscription.paused": subscription_changed,
    "customer.subscription.resumed": subscription_changed,
    "invoice.paid": invoice_settled,
    "invoice.payment_failed": invoice_settled,
    "customer.deleted": customer_deleted,
}


def copy_subscription(event: Event, customer: object, subscription: object) -> None:
    """Copy the subscription, given as an id or as an object; nothing for an event that is about none."""
    known, subscription_id = customer_of(event, customer), id_of(subscription)
    if known is not None and subscription_id:
        copy(event, known, [subscription_id])


def customer_of(event: Event, named: object) -> StripeCustomer | None:
    """Our customer that an event is about; None when it is none of ours, or the event took effect before."""
    stripe_id = id_of(named)
    with transaction():
        if knows_event(event.id):
            return None
        customer = find_customer(stripe_id) if stripe_id else None
    if customer is None:
        log_event(log, "event_of_unknown_customer", event_id=event.id, type=event.type, customer=stripe_id or "-")
    return customer


def copy(event: Event, customer: StripeCustomer, ids: list[str], *, deleted: bool = False) -> None:
    """Fetch the subscriptions and write them, in one transaction with the event's id.

    Raises PaymentProviderError, ServiceUnavailable; then nothing was written.
    """
    with stripe_calls() as payments:
        copy_subscriptions(
            customer.id,
            payments,
            lambda stripe: fetch(stripe, ids),
            now=event.now,
            event=NotedEvent(event.id, event.type),
            customer_deleted=deleted,
        )


def fetch(payments: Payments, ids: list[str]) -> list[RemoteSubscription]:
    """The subscriptions as they are now, without those that Stripe does not know (any more)."""
    found = []
    for subscription_id in ids:
        try:
            found.append(payments.subscription(subscription_id))
        except PaymentsRejected as error:
            if not error.missing:
                raise
            log.warning("Stripe does not know the subscription %s of an event", subscription_id)
    return found
