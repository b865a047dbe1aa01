"""Responses of the billing routes."""

from typing import Any

from app.billing.models import Tier
from app.core import fields
from app.core.schemas import Schema


class CheckoutOut(Schema):
    """Where to pay."""

    session_id = fields.String("Stripe's id of the Checkout session.", attribute="id")
    url = fields.Url("Stripe's payment page; open it in a browser.")


class PortalOut(Schema):
    """Where to manage the subscription."""

    url = fields.Url("Stripe's billing portal, good for a few minutes.")


class SubscriptionStatusOut(Schema):
    """The tier and where it comes from."""

    tier = fields.Choice("The tier as of this request.", Tier)
    status = fields.String("Stripe's status of the subscription; `none` before the first, `granted` for Pro by hand.")
    current_period_end = fields.Timestamp("When the period ends, or the grant; null when it does not.", allow_none=True)
    cancel_at_period_end = fields.Boolean("Whether it ends with the period; until then Pro stays.")
    grace_until = fields.Timestamp("Of a subscription that is `past_due`: how long Pro stays.", allow_none=True)


class ReceivedOut(Schema):
    """The event is taken."""

    received = fields.Boolean("Always true.")


EXAMPLE_CHECKOUT: dict[str, Any] = {
    "session_id": "cs_test_a1B2c3D4e5F6g7H8",
    "url": "https://checkout.stripe.com/c/pay/cs_test_a1B2c3D4e5F6g7H8",
}
EXAMPLE_STATUS: dict[str, Any] = {
    "tier": "pro",
    "status": "active",
    "current_period_end": "2026-12-21T09:30:00.000000Z",
    "cancel_at_period_end": False,
    "grace_until": None,
}
EXAMPLE_EVENT: dict[str, Any] = {
    "id": "evt_1a2B3c4D5e6F7g8H",
    "object": "event",
    "api_version": "2026-10-28.endive",
    "created": 1795253400,
    "type": "customer.subscription.updated",
    "data": {"object": {"id": "sub_1a2B3c4D5e6F7g8H", "object": "subscription", "customer": "cus_a1B2c3D4e5F6g7"}},
}
