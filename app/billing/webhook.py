"""Stripe's webhook: an event is verified and noted, then applied by a task, and by a sweep if that fails.

An event only says that something has happened to a customer. All of the customer's subscriptions are fetched from
Stripe when it is applied, so events may come twice, late, in any order, and in the shape of any API version. No event
sets a tier: it is computed from what was fetched (`app/billing/tier.py`).
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from http import HTTPStatus

from prometheus_client import Counter
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.billing.models import StripeCustomer, StripeEvent
from app.billing.stripe_connection import PaymentProviderError, required_setting, stripe_calls
from app.billing.subscriptions import copy_subscriptions, end_customer
from app.core.db import DATABASE_UNAVAILABLE, db
from app.core.errors import AppError, ServiceUnavailable
from app.core.http import is_draining
from app.core.logging import log_event
from app.core.transactions import transaction
from app.integrations.stripe import EventRejected, RemoteEvent, parse_event

APPLY_EVENT = "billing.apply_event"  # the task's name
RETRY_AFTER = timedelta(seconds=30)  # an event's task has run by then, or was lost
MAX_RETRY_AFTER = timedelta(hours=1)
# As long as Stripe itself tries to deliver an event: https://docs.stripe.com/webhooks#automatic-retries
GIVE_UP_AFTER = timedelta(days=3)
EVENT_RETENTION = timedelta(days=30)  # as long as an operator can let Stripe send an event again
BATCH = 100
MAX_UNANSWERED = 3  # in one sweep: each takes a worker up to STRIPE_TIMEOUT seconds
WEBHOOKS = Counter("stripe_webhooks", "Stripe webhooks by event type and result.", ["type", "result"])

log = logging.getLogger(__name__)


class InvalidSignature(AppError):
    """The webhook's body was not signed for us by Stripe, or not recently."""

    status, code = HTTPStatus.BAD_REQUEST, "invalid_signature"
    detail = "The request has no valid, recent signature from Stripe."


def refresh_subscriptions(event: StripeEvent, now: datetime) -> None:
    """Copy the subscriptions of the customer that the event is about."""
    with stripe_calls() as payments:
        copy_subscriptions(payments, event.customer_id, now=now)


def end_subscriptions(event: StripeEvent, now: datetime) -> None:
    """End our copies for a deleted customer: Stripe has canceled its subscriptions, and may no longer list them."""
    end_customer(event.customer_id, now=now)


HANDLERS: dict[str, Callable[[StripeEvent, datetime], None]] = {
    "checkout.session.completed": refresh_subscriptions,  # bought; the payment may be under way for days
    "checkout.session.async_payment_succeeded": refresh_subscriptions,  # it arrived
    "checkout.session.async_payment_failed": refresh_subscriptions,  # it did not
    "customer.subscription.created": refresh_subscriptions,
    "customer.subscription.updated": refresh_subscriptions,  # another status, price or period; or it will end
    "customer.subscription.deleted": refresh_subscriptions,  # canceled for good
    "customer.subscription.paused": refresh_subscriptions,
    "customer.subscription.resumed": refresh_subscriptions,
    "invoice.paid": refresh_subscriptions,
    "invoice.payment_failed": refresh_subscriptions,  # past due
    "customer.deleted": end_subscriptions,
}


def receive(body: bytes, signature: str, *, now: datetime) -> None:
    """Verify a webhook, note its event and queue the task that applies it. Does not call Stripe.

    An event that comes again has no effect if it was applied, and is queued again if it was not.
    Raises InvalidSignature, ServiceUnavailable (no signing secret): then nothing was noted.
    """
    try:
        event = parse_event(body, signature, required_setting("stripe_webhook_secret"), now_seconds=now.timestamp())
    except EventRejected as error:
        log.warning("A webhook was refused: %s", error)
        WEBHOOKS.labels("(unverified)", "refused").inc()
        raise InvalidSignature from None
    if event.type not in HANDLERS:
        WEBHOOKS.labels("(other)", "ignored").inc()
        return
    try:
        with transaction() as tx:
            if note_event(event, now):
                tx.enqueue_after_commit(APPLY_EVENT, event.id)
    except Exception:
        WEBHOOKS.labels(event.type, "failed").inc()
        raise
    WEBHOOKS.labels(event.type, "taken").inc()


def note_event(event: RemoteEvent, now: datetime) -> bool:
    """Store an event of a known customer, once. Returns whether it still has to be applied."""
    known = select(StripeCustomer.id).where(StripeCustomer.stripe_id == event.customer_id)
    customer_id = db.session.scalar(known) if event.customer_id else None
    if customer_id is None:
        unknown = event.customer_id or "-"
        log_event(log, "event_of_unknown_customer", event_id=event.id, type=event.type, customer=unknown)
        return False
    row = asdict(event) | {"customer_id": customer_id, "received_at": now, "due_at": now + RETRY_AFTER}
    db.session.execute(insert(StripeEvent).values(row).on_conflict_do_nothing())
    return db.session.scalar(select(StripeEvent.due_at).where(StripeEvent.id == event.id)) is not None


def apply_event(event_id: str, *, now: datetime, due_at: datetime | None = None) -> None:
    """Bring our copies of the event's customer up to date; does nothing if the event was already applied.

    due_at: the event's own, as the sweep read it; does nothing if another worker has claimed the event since.
    Safe to run twice at once. Raises PaymentProviderError, ServiceUnavailable: the sweep tries again.
    """
    event = claim_event(event_id, now, due_at)
    if event is None:
        return
    HANDLERS[event.type](event, now)
    with transaction():
        db.session.execute(update(StripeEvent).where(StripeEvent.id == event_id).values(due_at=None))


def claim_event(event_id: str, now: datetime, due_at: datetime | None) -> StripeEvent | None:
    """Claim the event, and make it due again in case this attempt fails: the older it is, the later.

    Returns None if it was already applied, or claimed by another worker since `due_at` was read.
    """
    unapplied = StripeEvent.due_at == due_at if due_at else StripeEvent.due_at.is_not(None)
    with transaction():
        event = db.session.scalar(select(StripeEvent).where(StripeEvent.id == event_id, unapplied).with_for_update())
        if event is not None:
            event.due_at = now + min(max(now - event.received_at, RETRY_AFTER), MAX_RETRY_AFTER)
        return event


def sweep_events(*, now: datetime) -> None:
    """Apply up to BATCH events that are due: their task was lost, or Stripe failed. Give up those that are too old.

    Ends when this process is draining, or when Stripe has not answered MAX_UNANSWERED times: the next sweep goes on.
    Skips events that another sweep has claimed meanwhile.
    """
    abandon_events(now)
    due = select(StripeEvent.id, StripeEvent.due_at).where(StripeEvent.due_at <= now)
    unanswered = 0
    for event_id, due_at in db.session.execute(due.order_by(StripeEvent.due_at).limit(BATCH)).all():
        if is_draining():
            return
        try:
            apply_event(event_id, now=now, due_at=due_at)
        except PaymentProviderError:
            continue  # Stripe refused it, which is logged; it may accept the others
        except ServiceUnavailable:
            unanswered += 1
            if unanswered == MAX_UNANSWERED:
                log.warning("The sweep of Stripe's events stopped early: Stripe does not answer")
                return
        except DATABASE_UNAVAILABLE:
            raise
        except Exception:  # an event that fails must not hold up the others
            log.exception("Stripe's event %s could not be applied", event_id)


def abandon_events(now: datetime) -> None:
    """Delete events that could not be applied for GIVE_UP_AFTER. If one is sent again by hand, it counts as new.

    An event that old is tried once more, since no worker may have run before. It is deleted when it would be due again:
    until then its last attempt may be under way.
    """
    was_tried = StripeEvent.due_at > StripeEvent.received_at + GIVE_UP_AFTER + MAX_RETRY_AFTER  # see `claim_event`
    too_old = (StripeEvent.due_at <= now, was_tried)
    with transaction():
        abandoned = db.session.scalars(delete(StripeEvent).where(*too_old).returning(StripeEvent.id)).all()
    for event_id in abandoned:
        log.error("Gave up on Stripe's event %s, which could not be applied for %d days", event_id, GIVE_UP_AFTER.days)


def oldest_unapplied() -> datetime | None:
    """When the oldest event that is not applied yet was received; None when all are applied."""
    return db.session.scalar(select(func.min(StripeEvent.received_at)).where(StripeEvent.due_at.is_not(None)))
