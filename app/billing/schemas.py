"""Responses of the billing routes."""

from typing import Any

from app.billing.models import Tier
from app.core import fields
from app.core.schemas import Schema


class CheckoutOut(Schema):
    """Where to pay."""

    session_id = fields.String(
        "Stripe's id of the Checkout session.", attribute="id", example="cs_test_a1B2c3D4e5F6g7H8"
    )
    url = fields.Url(
        "Stripe's payment page; open it in a browser.",
        example="https://checkout.stripe.com/c/pay/cs_test_a1B2c3D4e5F6g7H8",
    )


class PortalOut(Schema):
    """Where to manage the subscription."""

    url = fields.Url(
        "Stripe's billing portal, good for a few minutes.", example="https://billing.stripe.com/p/session/test_a1B2c3D4"
    )


class SubscriptionStatusOut(Schema):
    """The tier and where it comes from."""

    tier = fields.Choice("The tier as of this request.", Tier, example="pro")
    status = fields.String(
        "Stripe's status of the subscription; `none` before the first, `granted` if Pro was given by hand.",
        example="active",
    )
    current_period_end = fields.Timestamp(
        "When the subscription's period, or the grant, ends; null if there is no end.",
        allow_none=True,
        example="2026-12-21T09:30:00.000000Z",
    )
    cancel_at_period_end = fields.Boolean("Whether it ends with its period; Pro stays until then.", example=False)
    grace_until = fields.Timestamp(
        "How long Pro stays while the subscription is `past_due`; otherwise null.", allow_none=True, example=None
    )


class ReceivedOut(Schema):
    """The event was received."""

    received = fields.Boolean("Always true.", example=True)


EXAMPLE_EVENT: dict[str, Any] = {
    "id": "evt_1a2B3c4D5e6F7g8H",
    "object": "event",
    "api_version": "2026-10-28.endive",
    "created": 1795253400,
    "type": "customer.subscription.updated",
    "data": {"object": {"id": "sub_1a2B3c4D5e6F7g8H", "object": "subscription", "customer": "cus_a1B2c3D4e5F6g7"}},
}
