"""What an account's deletion means for its payments. The account feature calls this before it deletes the user."""

from datetime import datetime
from uuid import UUID

from app.billing.customers import begin_attempt, customers_to_close, forget_customer, has_session
from app.billing.models import StripeCustomer
from app.billing.stripe_connection import stripe_calls
from app.billing.subscriptions import copy_subscriptions, unended_subscription_ids
from app.core.transactions import transaction
from app.integrations.stripe import Payments, PaymentsRejected


def close_account(user_id: UUID, *, now: datetime) -> None:
    """Expire the user's open Checkout sessions and cancel the subscriptions at Stripe, at once.

    Sessions first, so that none is paid for in between. Raises PaymentProviderError, ServiceUnavailable: then
    the account must stay as it is. A payment that slips through all the same is cancelled when its event comes.
    """
    with transaction():
        customers = customers_to_close(user_id)
    if not customers:
        return
    with stripe_calls() as payments:
        for customer in customers:
            try:
                close_customer(payments, customer, now)
            except PaymentsRejected as error:
                forget_unknown(customer, error, now)


def close_customer(payments: Payments, customer: StripeCustomer, now: datetime) -> None:
    """Expire and cancel what there is of one customer, copy that, and forget the session that was open before."""
    stripe_id = str(customer.stripe_id)
    for session in payments.open_sessions(stripe_id):
        payments.expire_session(session.id)
    cancel_subscriptions(payments, stripe_id)
    copy_subscriptions(payments, customer.id, now=now)
    with transaction():
        begin_attempt(customer.id, customer.attempt, session_id=customer.session_id)


def cancel_subscriptions(payments: Payments, stripe_id: str) -> None:
    """Cancel every subscription of a customer that has not ended, at whatever price."""
    for subscription in payments.subscriptions(stripe_id):
        if not subscription.has_ended:
            payments.cancel_subscription(subscription.id)


def forget_unknown(customer: StripeCustomer, error: PaymentsRejected, now: datetime) -> None:
    """Forget a customer that Stripe does not know, who then pays for nothing there.

    Raises the error again when it says something else, and when a copy of ours says that the customer does pay:
    then the key may be that of another account.
    """
    if error.missing != "customer":
        raise error
    with transaction():
        if unended_subscription_ids(customer.id):
            raise error
        forget_customer(customer.id, now)


def is_closed(user_id: UUID) -> bool:
    """Whether no session was opened since `close_account`; ask in the transaction that deletes the user.

    None can be kept before that transaction ends, nor afterwards, when `disown_customers` was called in it as well.
    """
    return not has_session(user_id)
