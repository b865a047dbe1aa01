"""Routes of Pro: buy it, see it, manage it; and the webhook through which Stripe reports on it."""

from flask import request
from flask.views import MethodView

from app.billing import checkout, webhook
from app.billing.schemas import EXAMPLE_EVENT, CheckoutOut, PortalOut, ReceivedOut, SubscriptionStatusOut
from app.billing.stripe_connection import PaymentProviderError
from app.billing.tier import subscription_status
from app.core.api import Blueprint
from app.core.auth import current_user_id
from app.core.clock import utc_now
from app.core.errors import BodyTooLarge

MAX_EVENT_BYTES = 1024 * 1024

blp = Blueprint("billing", __name__, description="Pro: buy it, see it, manage it.")


@blp.route("/subscribe/pro")
class ProCheckout(MethodView):
    @blp.authenticated("subscribeToPro")
    @blp.response(200, CheckoutOut)
    @blp.errors(checkout.AlreadySubscribed, PaymentProviderError)
    def post(self) -> object:
        """Buy Pro

        Opens a Stripe Checkout page, or returns the one that is already open. Pro begins when Stripe reports the
        payment, a moment after it. An earlier subscription that is unpaid or paused is canceled for good. While the
        first payment of one is under way, the answer is `already_subscribed`."""
        return checkout.start_checkout(current_user_id(), now=utc_now())


@blp.route("/subscription/status")
class Status(MethodView):
    @blp.authenticated("getSubscription")
    @blp.response(200, SubscriptionStatusOut)
    def get(self) -> object:
        """See your subscription

        While it is `past_due`, Pro stays until `grace_until`."""
        return subscription_status(current_user_id(), now=utc_now())


@blp.route("/subscription/portal")
class Portal(MethodView):
    @blp.authenticated("openPortal")
    @blp.response(200, PortalOut)
    @blp.errors(PaymentProviderError)
    def post(self) -> object:
        """Manage your subscription

        Gives the address of Stripe's billing portal: change the card, cancel, resume, see invoices."""
        return {"url": checkout.open_portal(current_user_id(), now=utc_now())}


@blp.route("/webhook/stripe")
class Webhook(MethodView):
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
    def post(self) -> object:
        """Take an event from Stripe

        For Stripe only. The event is stored, and takes effect a moment later. Any 5xx makes Stripe send it again."""
        request.max_content_length = MAX_EVENT_BYTES
        webhook.receive(request.get_data(), request.headers.get("Stripe-Signature", ""), now=utc_now())
        return {"received": True}
