"""What an account's deletion means for its payments. The account feature calls this before it deletes the user."""

from datetime import datetime
from functools import partial
from uuid import UUID

from app.billing import customer_rows
from app.billing.provider import stripe_calls
from app.billing.sync import copy_subscriptions
from app.core.transactions import transaction
from app.integrations.payment_calls import RemoteSubscription
from app.integrations.payments import Payments


def close_account(user_id: UUID, *, now: datetime) -> None:
    """Expire the user's open Checkout sessions and cancel his subscriptions at Stripe, at once.

    Sessions first, so that none is paid for in between. Raises PaymentProviderError, ServiceUnavailable: then
    the account must stay as it is. A payment that slips through all the same is cancelled when its event comes.
    """
    with transaction():
        customers = {row.id: str(row.stripe_id) for row in customer_rows.customers_to_close(user_id)}
    if not customers:
        return
    with stripe_calls() as payments:
        for customer_id, stripe_id in customers.items():
            for session in payments.open_sessions(stripe_id):
                payments.expire_session(session.id)
            copy_subscriptions(customer_id, payments, partial(cancel_all, stripe_id), now=now)


def cancel_all(stripe_id: str, payments: Payments) -> list[RemoteSubscription]:
    """Cancel every subscription that has not ended; all of them, as they are then."""
    every = payments.subscriptions(stripe_id)
    return [one if one.has_ended else payments.cancel_subscription(one.id) for one in every]
