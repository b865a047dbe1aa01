"""Comparing our copies with Stripe, to correct what lost events left wrong."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import exists, or_, select, update

from app.billing.models import StripeCustomer, Subscription
from app.billing.stripe_connection import PaymentProviderError, required_setting, stripe_calls
from app.billing.subscriptions import Change, copy_subscriptions
from app.core import settings
from app.core.db import db
from app.core.errors import ServiceUnavailable
from app.core.http import is_draining
from app.core.transactions import transaction
from app.integrations.stripe import ENDED

log = logging.getLogger(__name__)

BATCH = 500
UNANSWERED_IN_A_ROW = 3  # one may be a customer with many subscriptions; three mean that Stripe is down
# Stripe sends an event for up to three days: https://docs.stripe.com/webhooks#automatic-retries
SESSION_PATIENCE = timedelta(days=3)
UNENDED = exists().where(Subscription.customer_id == StripeCustomer.id, Subscription.status.not_in(ENDED))


@dataclass(frozen=True)
class Failure:
    """A customer, by Stripe's id, that could not be compared, and why."""

    customer: str
    reason: str


@dataclass
class Comparison:
    """The result of a run. `left`: how many customers were not reached, because Stripe does not answer."""

    compared: int = 0
    corrected: list[Change] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    left: int = 0


def sync_due(*, now: datetime) -> list[Change]:
    """Compare up to BATCH customers that are due. Returns what was corrected. Does nothing without a secret key.

    Ends early when Stripe does not answer: the next run goes on. Safe to run twice at once.
    """
    if not settings().stripe_secret_key:
        return []
    corrected = compare(claim_customers(due_customers(), now), now=now).corrected
    if corrected:
        log.warning("The comparison with Stripe corrected %d subscriptions", len(corrected))
    return corrected


def due_customers() -> Sequence[StripeCustomer]:
    """Up to BATCH customers with something that can still change, those compared longest ago first.

    A Checkout session can change something until Stripe answers a comparison that begins SESSION_PATIENCE after the
    session's end, however late that is (`postpone_session_end`).
    """
    session_may_change = StripeCustomer.session_expires_at > StripeCustomer.checked_at - SESSION_PATIENCE
    due = select(StripeCustomer).where(StripeCustomer.stripe_id.is_not(None), or_(UNENDED, session_may_change))
    return db.session.scalars(due.order_by(StripeCustomer.checked_at, StripeCustomer.id).limit(BATCH)).all()


def claim_customers(customers: Sequence[StripeCustomer], now: datetime) -> Iterator[StripeCustomer]:
    """Yield the customers one by one, each marked as compared beforehand. Skips those that another run took.

    Stops when this process is draining: the next run goes on.
    """
    for customer in customers:
        if is_draining():
            return
        unchanged = (StripeCustomer.id == customer.id, StripeCustomer.checked_at == customer.checked_at)
        claim = update(StripeCustomer).where(*unchanged).values(checked_at=now).returning(StripeCustomer.id)
        with transaction():
            is_claimed = db.session.scalar(claim) is not None
        if is_claimed:
            yield customer


def sync_all(user_id: UUID | None, *, now: datetime) -> Comparison:
    """Compare every customer, or one user's, except those deleted at Stripe whose subscriptions have all ended.

    Raises ServiceUnavailable without a secret key.
    """
    required_setting("stripe_secret_key")
    can_change = or_(StripeCustomer.deleted_at.is_(None), UNENDED)
    at_stripe = (
        select(StripeCustomer).where(StripeCustomer.stripe_id.is_not(None), can_change).order_by(StripeCustomer.id)
    )
    if user_id is not None:
        at_stripe = at_stripe.where(StripeCustomer.user_id == user_id)
    customers = db.session.scalars(at_stripe).all()
    result = compare(customers, now=now)
    result.left = len(customers) - result.compared - len(result.failed)
    return result


def compare(customers: Iterable[StripeCustomer], *, now: datetime) -> Comparison:
    """Compare the customers one by one. Stops when Stripe does not answer for UNANSWERED_IN_A_ROW of them."""
    result, unanswered = Comparison(), 0
    for customer in customers:
        try:
            with stripe_calls() as payments:
                result.corrected += copy_subscriptions(payments, customer.id, now=now)
            result.compared += 1
            unanswered = 0
        except (PaymentProviderError, ServiceUnavailable) as error:
            log.warning("A customer could not be compared with Stripe: %s", customer.stripe_id)
            result.failed.append(Failure(str(customer.stripe_id), error.detail))
            unanswered = unanswered + 1 if isinstance(error, ServiceUnavailable) else 0
        if unanswered:
            postpone_session_end(customer, now)
        if unanswered == UNANSWERED_IN_A_ROW:
            log.warning("The comparison with Stripe stopped early: Stripe does not answer")
            break
    return result


def postpone_session_end(customer: StripeCustomer, now: datetime) -> None:
    """Let the customer's session count as if it ended now: Stripe has not said yet what came of it."""
    ended_session = (StripeCustomer.id == customer.id, StripeCustomer.session_expires_at < now)
    with transaction():
        db.session.execute(update(StripeCustomer).where(*ended_session).values(session_expires_at=now))
