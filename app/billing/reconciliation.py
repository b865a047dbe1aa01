"""Comparing our copies with Stripe, for what a lost event left wrong. The writing is the webhook's own."""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from app.billing import customer_rows, queries
from app.billing.errors import PaymentProviderError
from app.billing.models import StripeCustomer
from app.billing.provider import stripe_calls
from app.billing.sync import Change, copy_subscriptions
from app.core.database import db
from app.core.errors import ServiceUnavailable
from app.core.settings import settings
from app.core.transactions import transaction
from app.integrations.payment_calls import PaymentsRejected, RemoteSubscription
from app.integrations.payments import Payments

log = logging.getLogger(__name__)

BATCH = 500
# Stripe sends an event for up to three days: https://docs.stripe.com/webhooks#automatic-retries
SESSION_PATIENCE = timedelta(days=3)
EVENT_IDS_KEPT = timedelta(days=30)  # as long as Stripe lets one send an event again by hand


def sync_due(*, now: datetime) -> list[Change]:
    """Compare up to BATCH customers whose turn it is; what was mended. Does nothing where there is no key.

    Ends early when Stripe does not answer: the next run goes on. Safe to run twice at once.
    """
    if not settings().stripe_secret_key:
        return []
    with transaction():
        due = customer_rows.claim_customers_to_check(now, BATCH, session_patience=SESSION_PATIENCE)
    mended: list[Change] = []
    for customer_id in due:
        try:
            mended += sync_customer(customer_id, now=now)
        except ServiceUnavailable:
            log.warning("The comparison with Stripe ends early: it does not answer")
            break
        except PaymentProviderError:
            log.warning("A customer could not be compared with Stripe: %s", customer_id)
    if mended:
        log.warning("The comparison with Stripe mended %d subscriptions", len(mended))
    return mended


def sync_all(user_id: UUID | None, *, now: datetime) -> tuple[int, list[Change]]:
    """Compare every customer, or one user's: how many there were, and what was mended.

    Raises PaymentProviderError, ServiceUnavailable.
    """
    with transaction():
        customers = customer_rows.customers_at_stripe(user_id)
    return len(customers), [change for one in customers for change in sync_customer(one, now=now)]


def sync_customer(customer_id: UUID, *, now: datetime) -> list[Change]:
    """Compare one customer's subscriptions; what was mended. Raises PaymentProviderError, ServiceUnavailable."""
    with transaction():
        stripe_id = str(db.session.get_one(StripeCustomer, customer_id).stripe_id)
    with stripe_calls() as payments:
        try:
            return copy_subscriptions(customer_id, payments, lambda stripe: stripe.subscriptions(stripe_id), now=now)
        except PaymentsRejected as error:
            if not error.missing or not payments.is_deleted(stripe_id):
                raise
            return copy_subscriptions(customer_id, payments, nothing, now=now, customer_deleted=True)


def nothing(_: Payments) -> list[RemoteSubscription]:
    """What a deleted customer has."""
    return []


def forget_old_events(*, now: datetime) -> int:
    """Throw away up to BATCH event ids that Stripe will not send again; how many."""
    with transaction():
        return queries.forget_events(now - EVENT_IDS_KEPT, at_most=BATCH)
