"""Stripe's webhook: what an event is about, and what it leads to.

An event only says that something happened. What to believe is fetched from Stripe, so events may come twice,
late, in any order, and in the shape of any API version.
"""

import logging
from datetime import datetime
from typing import Any

from prometheus_client import Counter

from app.billing import customers as customer_queries
from app.billing import subscriptions as queries
from app.billing.errors import InvalidSignature
from app.billing.stripe_connection import required, stripe_calls
from app.billing.subscriptions import Event, copy_subscriptions
from app.core.logging import log_event
from app.core.transactions import transaction
from app.integrations.stripe import EventRejected, Payments, PaymentsRejected, RemoteSubscription, id_of, read_event

log = logging.getLogger(__name__)

WEBHOOKS = Counter("stripe_webhooks", "Webhooks of Stripe by type of event and result.", ["type", "result"])

CUSTOMER_DELETED = "customer.deleted"
HANDLED = frozenset(
    {
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.deleted",
        "customer.subscription.paused",
        "customer.subscription.resumed",
        "invoice.paid",
        "invoice.payment_failed",
        CUSTOMER_DELETED,
    }
)


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
    if event["type"] not in HANDLED:
        WEBHOOKS.labels("(other)", "ignored").inc()
        return
    item = event["data"].get("object") if isinstance(event.get("data"), dict) else None
    if not isinstance(item, dict):
        raise InvalidSignature
    try:
        apply(Event(event["id"], event["type"]), item, now)
    except Exception:
        WEBHOOKS.labels(event["type"], "failed").inc()
        raise
    WEBHOOKS.labels(event["type"], "taken").inc()


def apply(event: Event, item: dict[str, Any], now: datetime) -> None:
    """Bring our copy of what the event is about up to date, once."""
    customer_id, subscription_id = subject_of(event.type, item)
    with transaction():
        known = queries.knows_event(event.id)
        customer = customer_queries.find_customer(customer_id) if customer_id else None
        ids = [subscription_id] if subscription_id else []
        if customer is not None and event.type == CUSTOMER_DELETED:
            ids = queries.unended_subscription_ids(customer.id)
    if known:
        return
    if customer is None:
        log_event(log, "event_of_unknown_customer", event_id=event.id, type=event.type, customer=customer_id or "-")
        return
    if event.type.startswith("checkout."):
        log_event(log, "checkout_ended", event_id=event.id, payment_status=item.get("payment_status") or "-")
    deleted = event.type == CUSTOMER_DELETED
    if not ids and not deleted:
        return  # an invoice or a session that is about no subscription
    with stripe_calls() as payments:
        copy_subscriptions(
            customer.id,
            payments,
            lambda stripe: fetch(stripe, ids),
            now=now,
            event=event,
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


def subject_of(kind: str, item: dict[str, Any]) -> tuple[str | None, str | None]:
    """The ids of the customer and the subscription that an event's object is about.

    An invoice names its subscription under `parent`; before API version 2025-03-31 it had it at the top.
    """
    if kind == CUSTOMER_DELETED:
        return id_of(item), None
    customer_id = id_of(item.get("customer"))
    if kind.startswith("customer.subscription."):
        return customer_id, id_of(item)
    if kind.startswith("invoice."):
        parent = item.get("parent")
        details = parent.get("subscription_details") if isinstance(parent, dict) else None
        named = details.get("subscription") if isinstance(details, dict) else None
        return customer_id, id_of(named) or id_of(item.get("subscription"))
    return customer_id, id_of(item.get("subscription"))
