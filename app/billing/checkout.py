"""Buying Pro: one customer and one open Checkout session a user, however often and at once it is asked for.

Both are made under idempotency keys that follow from the row, so parallel calls get the same one from Stripe;
`attempt` in the key changes once a session is over, or when Stripe refused, for it keeps refusals for a day.
The account feature calls `close_account` before it deletes a user.
"""

from datetime import datetime
from uuid import UUID

from app.billing import customers
from app.billing.errors import AlreadySubscribed
from app.billing.models import StripeCustomer
from app.billing.stripe_connection import required, stripe_calls
from app.billing.subscriptions import (
    copy_subscriptions,
    dormant_subscriptions,
    has_live_subscription,
    unended_subscription_ids,
)
from app.core import settings
from app.core.errors import ServiceUnavailable
from app.core.transactions import transaction
from app.integrations.stripe import (
    Payments,
    PaymentsError,
    PaymentsFailed,
    PaymentsMissing,
    PaymentsRejected,
    RemoteSession,
)
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
                session = payments.session(customer.session_id)
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
            except PaymentsMissing as error:
                forget_missing_customer(customer, error, now)
    raise ServiceUnavailable


def close_account(user_id: UUID, *, now: datetime) -> None:
    """Expire the user's open Checkout sessions and cancel the subscriptions at Stripe, at once.

    Sessions first, so that none is paid for in between. Raises PaymentProviderError, ServiceUnavailable: then
    the account must stay as it is. A payment that slips through all the same is cancelled when its event comes.
    """
    with transaction():
        existing = customers.customers_to_close(user_id)
    if not existing:
        return
    with stripe_calls() as payments:
        for customer in existing:
            try:
                close_customer(payments, customer, now)
            except PaymentsMissing as error:
                forget_missing_customer(customer, error, now, unless_paying=True)


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
    except (PaymentsRejected, PaymentsFailed) as error:
        begin_attempt(customer)
        forget_missing_customer(customer, error, now)
        return None
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


def retire_checkout_session(
    payments: Payments, customer: StripeCustomer, session: RemoteSession | None, now: datetime
) -> None:
    """A session is over: copy the subscription that it led to, before its event does, and begin the next attempt."""
    if session is not None and session.subscription_id is not None:
        copy_subscriptions(payments, customer.id, [session.subscription_id], now=now)
    begin_attempt(customer)


def close_customer(payments: Payments, customer: StripeCustomer, now: datetime) -> None:
    """Expire every open session, cancel every subscription at whatever price, copy that, and forget the session."""
    stripe_id = str(customer.stripe_id)
    for session in payments.open_sessions(stripe_id):
        payments.expire_session(session.id)
    for subscription in payments.subscriptions(stripe_id):
        if not subscription.has_ended:
            payments.cancel_subscription(subscription.id)
    copy_subscriptions(payments, customer.id, now=now)
    begin_attempt(customer)


def begin_attempt(customer: StripeCustomer) -> None:
    """Use other idempotency keys from now on, and forget the session that was open before."""
    with transaction():
        customers.begin_attempt(customer)


def forget_missing_customer(
    customer: StripeCustomer, error: PaymentsError, now: datetime, *, unless_paying: bool = False
) -> None:
    """Forget a customer that Stripe does not know. Raises the error again when it says something else.

    unless_paying: raise it also when a copy of ours says that the customer pays: the key may be another account's.
    """
    if not isinstance(error, PaymentsMissing) or error.param != "customer":
        raise error
    with transaction():
        if unless_paying and unended_subscription_ids(customer.id):
            raise error
        customers.forget_customer(customer.id, now)


def frontend_url(path: str) -> str:
    """An address of the frontend."""
    return settings().frontend_url.rstrip("/") + path
