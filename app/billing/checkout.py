"""Buying Pro: one customer and one open Checkout session a user, however often and at once it is asked for.

Both are made under idempotency keys that follow from the row, so parallel calls get the same one from Stripe;
`attempt` in the key changes once a session is over, or when Stripe refused, for it keeps refusals for a day.
"""

from datetime import datetime
from uuid import UUID

from app.billing.customers import begin_attempt, ensure_customer, forget_customer, set_session, set_stripe_id
from app.billing.errors import AlreadySubscribed
from app.billing.models import StripeCustomer
from app.billing.stripe_connection import required, stripe_calls
from app.billing.subscriptions import DORMANT_STATUSES, LIVE_STATUSES, copy_subscriptions, has_live_subscription
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
        if refuse_subscribed and has_live_subscription(user_id, settings().stripe_pro_price_id):
            raise AlreadySubscribed
        return ensure_customer(user_id, now)


def make_customer(payments: Payments, customer: StripeCustomer) -> None:
    """Make the customer at Stripe and keep its id."""
    try:
        key = f"customer-{customer.id}-{customer.attempt}"
        stripe_id = payments.create_customer(user_id=str(customer.user_id), key=key)
    except (PaymentsRejected, PaymentsFailed):
        begin_next_attempt(customer)
        raise
    with transaction():
        set_stripe_id(customer.id, stripe_id)


def open_session(
    payments: Payments, user_id: UUID, customer: StripeCustomer, price_id: str, now: datetime
) -> RemoteSession | None:
    """Open a session; None when something changed meanwhile and a look at it is needed. Raises AlreadySubscribed."""
    try:
        cancel_dormant_subscriptions(payments, user_id, customer, now)
        session = payments.create_session(
            customer_id=str(customer.stripe_id),
            user_id=str(user_id),
            price_id=price_id,
            success_url=page(SUCCESS_PATH),
            cancel_url=page(CANCEL_PATH),
            key=f"checkout-{customer.id}-{customer.attempt}",
        )
    except PaymentsRejected as error:
        begin_next_attempt(customer)
        forget_if_missing(customer, error, now)
        return None
    except PaymentsFailed:
        begin_next_attempt(customer)
        raise
    with transaction():
        kept = set_session(customer.id, customer.attempt, session.id, session.expires_at)
    if kept:
        return session
    payments.expire_session(session.id)  # nobody would ever close it: the attempt is over, or the account gone
    return None


def cancel_dormant_subscriptions(payments: Payments, user_id: UUID, customer: StripeCustomer, now: datetime) -> None:
    """Cancel at Stripe what could be charged beside a new subscription, and copy what there is then.

    These are the subscriptions for Pro that give nothing; one for another price is no Pro, and nothing that a checkout
    may end. Raises AlreadySubscribed for one that lives, whatever our copies say, and for one whose first payment is
    under way: its payer would get nothing for it.
    """
    every = fetch_and_copy(payments, customer, now)
    prices = set(settings().stripe_pro_price_id)
    pro = [one for one in every if prices.intersection(one.price_ids)]
    dormant = [one for one in pro if one.status in DORMANT_STATUSES]
    if dormant and not any(one.status in LIVE_STATUSES for one in pro):
        if any(one.status == "incomplete" and payments.awaits_payment(one.id) for one in dormant):
            raise AlreadySubscribed(AlreadySubscribed.under_way)
        for one in dormant:
            payments.cancel_subscription(one.id)
        fetch_and_copy(payments, customer, now)
    with transaction():
        if has_live_subscription(user_id, settings().stripe_pro_price_id):
            raise AlreadySubscribed


def fetch_and_copy(payments: Payments, customer: StripeCustomer, now: datetime) -> list[RemoteSubscription]:
    """Copy every subscription of the customer; all of them, as they are at Stripe."""
    every = []

    def fetch(stripe: Payments) -> list[RemoteSubscription]:
        every.extend(stripe.subscriptions(str(customer.stripe_id)))
        return every

    copy_subscriptions(customer.id, payments, fetch, now=now)
    return every


def look_up(payments: Payments, session_id: str) -> RemoteSession | None:
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
    """A session is over: copy what came of it, before its event does, and let the next attempt begin."""
    if session is not None and session.subscription_id is not None:
        bought = session.subscription_id
        copy_subscriptions(customer.id, payments, lambda stripe: [stripe.subscription(bought)], now=now)
    begin_next_attempt(customer)


def begin_next_attempt(customer: StripeCustomer) -> None:
    with transaction():
        begin_attempt(customer.id, customer.attempt, session_id=customer.session_id)


def forget_if_missing(customer: StripeCustomer, error: PaymentsRejected, now: datetime) -> None:
    """Raises the error again unless it says that the customer does not exist."""
    if error.missing != "customer":
        raise error
    with transaction():
        forget_customer(customer.id, now)


def page(path: str) -> str:
    """An address of the frontend."""
    return settings().frontend_url.rstrip("/") + path
