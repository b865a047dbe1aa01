"""Routes of Pro: buy it, see it, manage it; and the webhook through which Stripe reports on it."""

from typing import Any

from flask import request

from app.billing import checkout, webhook
from app.billing.models import Tier
from app.billing.stripe_connection import PaymentProviderError
from app.billing.tier import subscription_status
from app.core import fields
from app.core.api import Blueprint
from app.core.auth import current_user_id
from app.core.clock import utc_now
from app.core.errors import BodyTooLarge
from app.core.schemas import Schema

MAX_EVENT_BYTES = 1024 * 1024

blp = Blueprint("billing", __name__, description="Pro: buy it, see it, manage it.")


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


@blp.post("/subscribe/pro")
@blp.authenticated("subscribeToPro")
@blp.response(200, CheckoutOut)
@blp.errors(checkout.AlreadySubscribed, PaymentProviderError)
def subscribe_to_pro() -> object:
    """Buy Pro

    Opens a Stripe Checkout page, or returns the one that is already open. Pro begins when Stripe reports the
    payment, a moment after it. An earlier subscription that is unpaid or paused is canceled for good. While the
    first payment of one is under way, the answer is `already_subscribed`."""
    return checkout.start_checkout(current_user_id(), now=utc_now())


@blp.get("/subscription/status")
@blp.authenticated("getSubscription")
@blp.response(200, SubscriptionStatusOut)
def get_subscription() -> object:
    """See your subscription

    While it is `past_due`, Pro stays until `grace_until`."""
    return subscription_status(current_user_id(), now=utc_now())


@blp.post("/subscription/portal")
@blp.authenticated("openPortal")
@blp.response(200, PortalOut)
@blp.errors(PaymentProviderError)
def open_portal() -> object:
    """Manage your subscription

    Gives the address of Stripe's billing portal: change the card, cancel, resume, see invoices."""
    return {"url": checkout.open_portal(current_user_id(), now=utc_now())}


@blp.post("/webhook/stripe")
@blp.public("receiveStripeEvent")
@blp.doc(
    parameters=[
        {
            "in": "header",
            "name": "Stripe-Signature",
            "required": True,
            "description": "Stripe's signature of the body, and when it was made.",
            "schema": {"type": "string"},
        }
    ],
    requestBody={
        "required": True,
        "description": "The event exactly as Stripe sent it, up to 1 MiB.",
        "content": {"application/json": {"schema": {"type": "object"}, "example": EXAMPLE_EVENT}},
    },
)
@blp.response(200, ReceivedOut)
@blp.errors(webhook.InvalidSignature, BodyTooLarge)
def receive_stripe_event() -> object:
    """Take an event from Stripe

    For Stripe only. The event is stored, and takes effect a moment later. Any 5xx makes Stripe send it again."""
    request.max_content_length = MAX_EVENT_BYTES
    webhook.receive(request.get_data(), request.headers.get("Stripe-Signature", ""), now=utc_now())
    return {"received": True}
