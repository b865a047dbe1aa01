"""Buying Pro: one customer and one open Checkout session a user, however often and at once it is asked for.

Both are made under idempotency keys that follow from the row, so parallel calls get the same one from Stripe;
`attempt` in the key changes once a session is over, or when Stripe refused, for it keeps refusals for a day.
"""

from datetime import datetime
from functools import partial
from uuid import UUID

from app.billing import customers as customer_queries
from app.billing import subscriptions as queries
from app.billing.errors import AlreadySubscribed
from app.billing.models import StripeCustomer
from app.billing.stripe_connection import required, stripe_calls
from app.billing.subscriptions import copy_subscriptions
from app.core import settings
from app.core.errors import ServiceUnavailable
from app.core.transactions import transaction
from app.integrations.stripe import Payments, PaymentsFailed, PaymentsRejected, RemoteSession, RemoteSubscription
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
                make_customer(payments, customer)
            elif customer.session_id is None:
                session = open_session(payments, user_id, customer, price_id, now)
                if session is not None:
                    return session
            else:
                session = look_up(payments, customer.session_id)
                if session is not None and session.status == "open":
                    return session
                leave_session(payments, customer, session, now)
    raise ServiceUnavailable


def open_portal(user_id: UUID, *, now: datetime) -> str:
    """The address of Stripe's billing portal for the user.

    Raises PaymentProviderError, ServiceUnavailable, TokenRevoked.
    """
    with stripe_calls() as payments:
        for _ in range(MAX_ROUNDS):
            customer = customer_for(user_id, now)
            if customer.stripe_id is None:
                make_customer(payments, customer)
                continue
            try:
                return payments.portal_url(customer.stripe_id, return_url=page(PORTAL_RETURN_PATH))
            except PaymentsRejected as error:
                forget_if_missing(customer, error, now)
    raise ServiceUnavailable


def customer_for(user_id: UUID, now: datetime, *, refuse_subscribed: bool = False) -> StripeCustomer:
    """The user's customer row, made when there is none. Raises AlreadySubscribed, TokenRevoked."""
    with transaction():
        require_locked_user(user_id)
        if refuse_subscribed and queries.has_live_subscription(user_id, settings().stripe_pro_price_id):
            raise AlreadySubscribed
        return customer_queries.ensure_customer(user_id, now)


def make_customer(payments: Payments, customer: StripeCustomer) -> None:
    """Make the customer at Stripe and keep its id."""
    try:
        key = f"customer-{customer.id}-{customer.attempt}"
        stripe_id = payments.create_customer(user_id=str(customer.user_id), key=key)
    except (PaymentsRejected, PaymentsFailed):
        begin_attempt(customer)
        raise
    with transaction():
        customer_queries.set_stripe_id(customer.id, stripe_id)


def open_session(
    payments: Payments, user_id: UUID, customer: StripeCustomer, price_id: str, now: datetime
) -> RemoteSession | None:
    """Open a session; None when something changed meanwhile and a look at it is needed. Raises AlreadySubscribed."""
    try:
        make_way(payments, user_id, customer, now)
        session = payments.create_session(
            customer_id=str(customer.stripe_id),
            user_id=str(user_id),
            price_id=price_id,
            success_url=page(SUCCESS_PATH),
            cancel_url=page(CANCEL_PATH),
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
        kept = customer_queries.set_session(customer.id, customer.attempt, session.id, session.expires_at)
    if kept:
        return session
    payments.expire_session(session.id)  # nobody would ever close it: the attempt is over, or the account gone
    return None


def make_way(payments: Payments, user_id: UUID, customer: StripeCustomer, now: datetime) -> None:
    """End what could be charged beside a new subscription, whatever our copies say. Raises AlreadySubscribed."""
    copy_subscriptions(customer.id, payments, partial(end_dormant, str(customer.stripe_id)), now=now)
    with transaction():
        if queries.has_live_subscription(user_id, settings().stripe_pro_price_id):
            raise AlreadySubscribed


def end_dormant(stripe_id: str, payments: Payments) -> list[RemoteSubscription]:
    """Cancel every subscription for Pro that gives nothing, unless another lives; all of them, as they are then.

    One for another price is no Pro, and nothing that a checkout may end.
    Raises AlreadySubscribed for one whose first payment is under way: its payer would get nothing for it.
    """
    prices = set(settings().stripe_pro_price_id)
    every = payments.subscriptions(stripe_id)
    pro = [one for one in every if prices.intersection(one.price_ids)]
    if any(one.status in queries.LIVE_STATUSES for one in pro):
        return every
    if any(one.status == "incomplete" and payments.awaits_payment(one.id) for one in pro):
        raise AlreadySubscribed(AlreadySubscribed.under_way)
    dormant = [one for one in pro if one.status in queries.DORMANT_STATUSES]
    return [payments.cancel_subscription(one.id) if one in dormant else one for one in every]


def look_up(payments: Payments, session_id: str) -> RemoteSession | None:
    """The session as it is now; None when Stripe does not know it."""
    try:
        return payments.session(session_id)
    except PaymentsRejected as error:
        if not error.missing:
            raise
        return None


def leave_session(payments: Payments, customer: StripeCustomer, session: RemoteSession | None, now: datetime) -> None:
    """A session is over: copy what came of it, before its event does, and let the next attempt begin."""
    if session is not None and session.subscription_id is not None:
        bought = session.subscription_id
        copy_subscriptions(customer.id, payments, lambda stripe: [stripe.subscription(bought)], now=now)
    begin_attempt(customer)


def begin_attempt(customer: StripeCustomer) -> None:
    with transaction():
        customer_queries.begin_attempt(customer.id, customer.attempt, session_id=customer.session_id)


def forget_if_missing(customer: StripeCustomer, error: PaymentsRejected, now: datetime) -> None:
    """Raises the error again unless it says that the customer does not exist."""
    if error.missing != "customer":
        raise error
    with transaction():
        customer_queries.forget_customer(customer.id, now)


def page(path: str) -> str:
    """An address of the frontend."""
    return settings().frontend_url.rstrip("/") + path
