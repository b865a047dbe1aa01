"""Buying Pro: a user has one customer and one open Checkout session, however many requests ask at the same time.

Both are made under idempotency keys derived from the row (and the price), so parallel calls get the same one from
Stripe. The key's `attempt` changes once a session has ended, or when Stripe refused: it keeps refusals for a day.
The account feature calls `close_account` before it deletes a user, and `disown_customers` when it does.
"""

from datetime import datetime
from http import HTTPStatus
from uuid import UUID

from sqlalchemy import or_, select, update

from app.billing.models import StripeCustomer
from app.billing.stripe_connection import required_setting, stripe_calls_for
from app.billing.subscriptions import (
    copy_subscriptions,
    dormant_subscriptions,
    end_customer,
    has_live_subscription,
    has_unended_subscription,
)
from app.core import settings
from app.core.db import db
from app.core.errors import AppError, ServiceUnavailable
from app.core.transactions import transaction
from app.integrations.stripe import (
    MissingAtStripe,
    Payments,
    PaymentsError,
    PaymentsFailed,
    PaymentsRejected,
    RemoteSession,
)
from app.users.service import require_locked_user

MAX_ROUNDS = 6  # each takes one step, which parallel requests may have taken at the same time


class AlreadySubscribed(AppError):
    """The user has a live subscription, or one whose first payment is under way."""

    status, code = HTTPStatus.CONFLICT, "already_subscribed"
    detail = "You already have Pro, or a payment for it is due. Manage it with POST /subscription/portal."


def start_checkout(user_id: UUID, *, now: datetime) -> RemoteSession:
    """Return an open Checkout session: the existing one, or a new one.

    Raises AlreadySubscribed, PaymentProviderError, RateLimited, ServiceUnavailable, TokenRevoked; then nothing was
    bought.
    """
    price_id: str = required_setting("stripe_pro_price_id")[0]
    with stripe_calls_for(user_id) as payments:
        for _ in range(MAX_ROUNDS):
            customer = get_or_insert_customer(user_id, now, refuse_subscribed=True)
            if customer.stripe_id is None:
                create_customer(payments, customer)
            elif customer.session_id is None:
                session = open_checkout_session(payments, user_id, customer, price_id, now)
                if session is not None:
                    return session
            else:
                session = payments.session(customer.session_id)
                if session is not None and session.status == "open":
                    return session
                if session is not None and session.status == "complete":  # its event may come later
                    copy_subscriptions(payments, customer.id, now=now)
                begin_attempt(customer)
    raise ServiceUnavailable


def open_portal(user_id: UUID, *, now: datetime) -> str:
    """The address of Stripe's billing portal for the user.

    Raises PaymentProviderError, RateLimited, ServiceUnavailable, TokenRevoked.
    """
    with stripe_calls_for(user_id) as payments:
        for _ in range(MAX_ROUNDS):
            customer = get_or_insert_customer(user_id, now)
            if customer.stripe_id is None:
                create_customer(payments, customer)
                continue
            try:
                return payments.portal_url(customer.stripe_id, return_url=frontend_url("/billing"))
            except MissingAtStripe as error:
                forget_missing_customer(payments, customer, error, now)
    raise ServiceUnavailable


def close_account(user_id: UUID, *, now: datetime) -> None:
    """Expire the user's open Checkout sessions, and cancel all subscriptions at Stripe at once, whatever their price.

    Sessions go first, so that none is paid for in between. A subscription that is paid for all the same is canceled
    when its event comes. Raises PaymentProviderError, RateLimited, ServiceUnavailable: then the account must stay as it
    is.
    """
    existing = (StripeCustomer.stripe_id.is_not(None), StripeCustomer.deleted_at.is_(None))
    customer = db.session.scalar(select(StripeCustomer).where(StripeCustomer.user_id == user_id, *existing))
    if customer is None:
        return
    stripe_id = str(customer.stripe_id)
    with stripe_calls_for(user_id) as payments:
        try:
            for session in payments.open_sessions(stripe_id):
                payments.expire_session(session.id)
            for subscription in payments.subscriptions(stripe_id):
                if not subscription.has_ended:
                    payments.cancel_subscription(subscription.id)
            copy_subscriptions(payments, customer.id, now=now)
            begin_attempt(customer)
        except MissingAtStripe as error:
            forget_missing_customer(payments, customer, error, now)


def disown_customers(user_id: UUID) -> bool:
    """Detach the user's customers, including those deleted at Stripe: what is paid for from now on is canceled.

    Returns False and detaches nothing if a Checkout session was opened since `close_account`. Call it in the
    transaction that deletes the user: no session can be stored before that ends, nor afterwards.
    """
    existing = (StripeCustomer.user_id == user_id, StripeCustomer.deleted_at.is_(None))
    if db.session.scalar(select(StripeCustomer.session_id).where(*existing).with_for_update()):
        return False
    db.session.execute(update(StripeCustomer).where(StripeCustomer.user_id == user_id).values(user_id=None))
    return True


def get_or_insert_customer(user_id: UUID, now: datetime, *, refuse_subscribed: bool = False) -> StripeCustomer:
    """Return the user's customer, fresh from the database; the first call inserts it. Stripe may not know it yet.

    One that was deleted at Stripe does not count. Raises AlreadySubscribed (if `refuse_subscribed`), TokenRevoked.
    """
    own = select(StripeCustomer).where(StripeCustomer.user_id == user_id, StripeCustomer.deleted_at.is_(None))
    with transaction():
        require_locked_user(user_id)  # only one of parallel calls inserts it
        if refuse_subscribed and has_live_subscription(user_id):
            raise AlreadySubscribed
        customer = db.session.scalar(own, execution_options={"populate_existing": True})
        if customer is None:
            customer = StripeCustomer(user_id=user_id, stripe_id=None, session_id=None, created_at=now, checked_at=now)
            db.session.add(customer)
        return customer


def create_customer(payments: Payments, customer: StripeCustomer) -> None:
    """Make the customer at Stripe, and store its id unless a parallel call already has."""
    try:
        key = f"customer-{customer.id}-{customer.attempt}"
        stripe_id = payments.create_customer(user_id=str(customer.user_id), key=key)
    except (PaymentsRejected, PaymentsFailed):
        begin_attempt(customer)
        raise
    without_stripe_id = (StripeCustomer.id == customer.id, StripeCustomer.stripe_id.is_(None))
    with transaction():
        db.session.execute(update(StripeCustomer).where(*without_stripe_id).values(stripe_id=stripe_id))


def open_checkout_session(
    payments: Payments, user_id: UUID, customer: StripeCustomer, price_id: str, now: datetime
) -> RemoteSession | None:
    """Open a session. Returns None if something has changed, and another round is needed. Raises AlreadySubscribed."""
    try:
        cancel_dormant_subscriptions(payments, user_id, customer, now)
        session = payments.create_session(
            customer_id=str(customer.stripe_id),
            user_id=str(user_id),
            price_id=price_id,
            success_url=frontend_url("/billing/success?session_id={CHECKOUT_SESSION_ID}"),  # Stripe fills the id in
            cancel_url=frontend_url("/billing/cancel"),
            key=f"checkout-{customer.id}-{price_id}-{customer.attempt}",
        )
    except (PaymentsRejected, PaymentsFailed) as error:
        begin_attempt(customer)
        forget_missing_customer(payments, customer, error, now)
        return None
    if session.expires_at <= now:  # Stripe may keep its answer under the key for longer than the session's day
        begin_attempt(customer)
        return None
    if store_session(customer, session):
        return session
    payments.expire_session(session.id)  # otherwise nobody ever would
    return None


def store_session(customer: StripeCustomer, session: RemoteSession) -> bool:
    """Store the session that this attempt opened. Returns False if the attempt is over, or the account is gone."""
    current = (
        StripeCustomer.id == customer.id,
        StripeCustomer.user_id.is_not(None),
        StripeCustomer.attempt == customer.attempt,
        or_(StripeCustomer.session_id.is_(None), StripeCustomer.session_id == session.id),
    )
    values = {"session_id": session.id, "session_expires_at": session.expires_at}
    statement = update(StripeCustomer).where(*current).values(values).returning(StripeCustomer.id)
    with transaction():
        return db.session.scalar(statement) is not None


def cancel_dormant_subscriptions(payments: Payments, user_id: UUID, customer: StripeCustomer, now: datetime) -> None:
    """Cancel the subscriptions that Stripe says now could be charged beside a new one.

    Raises AlreadySubscribed if one is live, or if a first payment is under way: its payer would get nothing.
    """
    copy_subscriptions(payments, customer.id, now=now)
    with transaction():
        if has_live_subscription(user_id):
            raise AlreadySubscribed
        dormant = dormant_subscriptions(customer.id)
    if any(one.status == "incomplete" and payments.awaits_payment(one.id) for one in dormant):
        raise AlreadySubscribed("Your first payment is under way, which may take days. Pro begins when it arrives.")
    for subscription in dormant:
        payments.cancel_subscription(subscription.id)
    if dormant:
        copy_subscriptions(payments, customer.id, now=now)


def begin_attempt(customer: StripeCustomer) -> None:
    """Use new idempotency keys from now on, and forget the session that was open before.

    Does nothing if another attempt has begun, or another session was stored, since the row was read.
    """
    current = (
        StripeCustomer.id == customer.id,
        StripeCustomer.attempt == customer.attempt,
        StripeCustomer.session_id.is_not_distinct_from(customer.session_id),
    )
    values = {"attempt": customer.attempt + 1, "session_id": None, "session_expires_at": None}
    with transaction():
        db.session.execute(update(StripeCustomer).where(*current).values(values))


def forget_missing_customer(payments: Payments, customer: StripeCustomer, error: PaymentsError, now: datetime) -> None:
    """End a customer that Stripe does not know, and its subscriptions; the user's next customer is a new one.

    Raises the error again if it says something else. Also raises it if one of our copies has not ended, unless Stripe
    says that the customer was deleted: the secret key may belong to another Stripe account.
    """
    if not isinstance(error, MissingAtStripe) or error.param != "customer":
        raise error
    with transaction():
        unended = has_unended_subscription(customer.id)
    if unended and not payments.is_deleted(str(customer.stripe_id)):
        raise error
    end_customer(customer.id, now=now)


def frontend_url(path: str) -> str:
    """An address of the frontend."""
    return settings().frontend_url.rstrip("/") + path
