"""What an account's deletion means for its payments. The account feature calls this before it deletes the user."""

from datetime import datetime
from functools import partial
from uuid import UUID

from app.billing import customers as customer_queries
from app.billing import subscriptions as queries
from app.billing.models import StripeCustomer
from app.billing.stripe_connection import stripe_calls
from app.billing.subscriptions import copy_subscriptions
from app.core.transactions import transaction
from app.integrations.stripe import Payments, PaymentsRejected, RemoteSubscription


def close_account(user_id: UUID, *, now: datetime) -> None:
    """Expire the user's open Checkout sessions and cancel the subscriptions at Stripe, at once.

    Sessions first, so that none is paid for in between. Raises PaymentProviderError, ServiceUnavailable: then
    the account must stay as it is. A payment that slips through all the same is cancelled when its event comes.
    """
    with transaction():
        customers = customer_queries.customers_to_close(user_id)
    if not customers:
        return
    with stripe_calls() as payments:
        for customer in customers:
            try:
                close_customer(payments, customer, now)
            except PaymentsRejected as error:
                forget_unknown(customer, error, now)


def close_customer(payments: Payments, customer: StripeCustomer, now: datetime) -> None:
    """End what there is of one customer, and forget the session that was open before."""
    stripe_id = str(customer.stripe_id)
    for session in payments.open_sessions(stripe_id):
        payments.expire_session(session.id)
    copy_subscriptions(customer.id, payments, partial(cancel_all, stripe_id), now=now)
    with transaction():
        customer_queries.begin_attempt(customer.id, customer.attempt, session_id=customer.session_id)


def forget_unknown(customer: StripeCustomer, error: PaymentsRejected, now: datetime) -> None:
    """Forget a customer that Stripe does not know, who then pays for nothing there.

    Raises the error again when it says something else, and when a copy of ours says that the customer does pay:
    then the key may be that of another account.
    """
    if error.missing != "customer":
        raise error
    with transaction():
        if queries.unended_subscription_ids(customer.id):
            raise error
        customer_queries.forget_customer(customer.id, now)


def is_closed(user_id: UUID) -> bool:
    """Whether no session was opened since `close_account`; ask in the transaction that deletes the user.

    None can be kept before that transaction ends, nor afterwards, when `disown_customers` was called in it as well.
    """
    return not customer_queries.has_session(user_id)


def cancel_all(stripe_id: str, payments: Payments) -> list[RemoteSubscription]:
    """Cancel every subscription that has not ended; all of them, as they are then."""
    every = payments.subscriptions(stripe_id)
    return [one if one.has_ended else payments.cancel_subscription(one.id) for one in every]
