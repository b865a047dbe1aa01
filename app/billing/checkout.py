"""Buying Pro: one customer and one open Checkout session a user, however often and at once it is asked for.

Both are made under idempotency keys that follow from the row, so parallel calls get the same one from Stripe;
`attempt` in the key changes once a session is over, or when Stripe refused, for it keeps refusals for a day.
"""

from datetime import datetime
from uuid import UUID

from app.billing import customers
from app.billing.errors import AlreadySubscribed
from app.billing.models import StripeCustomer
from app.billing.stripe_connection import required, stripe_calls
from app.billing.subscriptions import copy_subscriptions, dormant_subscriptions, has_live_subscription
from app.core import settings
from app.core.errors import ServiceUnavailable
from app.core.transactions import transaction
from app.integrations.stripe import Payments, PaymentsFailed, PaymentsRejected, RemoteSession
from app.users.service import require_locked_user

MAX_ROUNDS = 6  # each makes a step that others may have made at the same time
SUCCESS_PATH = "/billing/success?session_id={CHECKOUT_SESSION_ID}"  # Stripe fills the id in
CANCEL_PATH = "/billing/cancel"
PORTAL_RETURN_PATH = "/billing"


def start_checkout(user_id: UUID, *, now: datetime) -> RemoteSession:
    """A Checkout session that is open: the one there is, or a new one.

    Raises AlreadySubscribed, PaymentProviderError, ServiceUnavailable, TokenRevoked; then nothing was bought.
    """
    price_id: str = required("stripe_pro_price_id")[0]
    with stripe_calls() as payments:
        for _ in range(MAX_ROUNDS):
            customer = customer_for(user_id, now, refuse_subscribed=True)
            if customer.stripe_id is None:
                create_customer(payments, customer)
            elif customer.session_id is None:
                session = open_checkout_session(payments, user_id, customer, price_id, now)
                if session is not None:
                    return session
            else:
                session = find_session(payments, customer.session_id)
                if session is not None and session.status == "open":
                    return session
                retire_checkout_session(payments, customer, session, now)
    raise ServiceUnavailable


def open_portal(user_id: UUID, *, now: datetime) -> str:
    """The address of Stripe's billing portal for the user.

    Raises PaymentProviderError, ServiceUnavailable, TokenRevoked.
    """
    with stripe_calls() as payments:
        for _ in range(MAX_ROUNDS):
            customer = customer_for(user_id, now)
            if customer.stripe_id is None:
                create_customer(payments, customer)
                continue
            try:
                return payments.portal_url(customer.stripe_id, return_url=frontend_url(PORTAL_RETURN_PATH))
            except PaymentsRejected as error:
                forget_if_missing(customer, error, now)
    raise ServiceUnavailable


def customer_for(user_id: UUID, now: datetime, *, refuse_subscribed: bool = False) -> StripeCustomer:
    """The user's customer row, made when there is none. Raises AlreadySubscribed, TokenRevoked."""
    with transaction():
        require_locked_user(user_id)
        if refuse_subscribed and has_live_subscription(user_id):
            raise AlreadySubscribed
        return customers.ensure_customer(user_id, now)


def create_customer(payments: Payments, customer: StripeCustomer) -> None:
    """Make the customer at Stripe and keep its id."""
    try:
        key = f"customer-{customer.id}-{customer.attempt}"
        stripe_id = payments.create_customer(user_id=str(customer.user_id), key=key)
    except (PaymentsRejected, PaymentsFailed):
        begin_attempt(customer)
        raise
    with transaction():
        customers.set_stripe_id(customer.id, stripe_id)


def open_checkout_session(
    payments: Payments, user_id: UUID, customer: StripeCustomer, price_id: str, now: datetime
) -> RemoteSession | None:
    """Open a session; None when something changed meanwhile and another round is needed. Raises AlreadySubscribed."""
    try:
        cancel_dormant_subscriptions(payments, user_id, customer, now)
        session = payments.create_session(
            customer_id=str(customer.stripe_id),
            user_id=str(user_id),
            price_id=price_id,
            success_url=frontend_url(SUCCESS_PATH),
            cancel_url=frontend_url(CANCEL_PATH),
            key=f"checkout-{customer.id}-{customer.attempt}",
        )
    except PaymentsRejected as error:
        begin_attempt(customer)
        forget_if_missing(customer, error, now)
        return None
    except PaymentsFailed:
        begin_attempt(customer)
        raise
    with transaction():
        kept = customers.set_session(customer.id, customer.attempt, session.id, session.expires_at)
    if kept:
        return session
    payments.expire_session(session.id)  # nobody would ever close it: the attempt is over, or the account gone
    return None


def cancel_dormant_subscriptions(payments: Payments, user_id: UUID, customer: StripeCustomer, now: datetime) -> None:
    """Cancel what could be charged beside a new subscription, by what Stripe says now.

    Raises AlreadySubscribed when one is live, or the first payment of one is under way: its payer would get nothing.
    """
    copy_subscriptions(payments, customer.id, now=now)
    with transaction():
        if has_live_subscription(user_id):
            raise AlreadySubscribed
        dormant = dormant_subscriptions(customer.id)
    if any(one.status == "incomplete" and payments.awaits_payment(one.id) for one in dormant):
        raise AlreadySubscribed(AlreadySubscribed.under_way)
    for subscription in dormant:
        payments.cancel_subscription(subscription.id)
    if dormant:
        copy_subscriptions(payments, customer.id, [one.id for one in dormant], now=now)


def find_session(payments: Payments, session_id: str) -> RemoteSession | None:
    """The session as it is now; None when Stripe does not know it."""
    try:
        return payments.session(session_id)
    except PaymentsRejected as error:
        if not error.missing:
            raise
        return None


def retire_checkout_session(
    payments: Payments, customer: StripeCustomer, session: RemoteSession | None, now: datetime
) -> None:
    """A session is over: copy the subscription that it led to, before its event does, and begin the next attempt."""
    if session is not None and session.subscription_id is not None:
        copy_subscriptions(payments, customer.id, [session.subscription_id], now=now)
    begin_attempt(customer)


def begin_attempt(customer: StripeCustomer) -> None:
    """Use other idempotency keys from now on."""
    with transaction():
        customers.begin_attempt(customer.id, customer.attempt, session_id=customer.session_id)


def forget_if_missing(customer: StripeCustomer, error: PaymentsRejected, now: datetime) -> None:
    """Raises the error again unless it says that the customer does not exist."""
    if error.missing != "customer":
        raise error
    with transaction():
        customers.forget_customer(customer.id, now)


def frontend_url(path: str) -> str:
    """An address of the frontend."""
    return settings().frontend_url.rstrip("/") + path
