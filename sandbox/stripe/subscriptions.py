"""/v1/subscriptions (https://docs.stripe.com/api/subscriptions)."""

from flask import Blueprint
from stripe.params import (
    SubscriptionCancelParams,
    SubscriptionListParams,
    SubscriptionResumeParams,
    SubscriptionUpdateParams,
)

from sandbox.stripe.api import StandIn, endpoint
from sandbox.stripe.events import changed_fields
from sandbox.stripe.lifecycle import ENDED, STATUSES
from sandbox.stripe.listing import customer_of, page
from sandbox.stripe.store import Json
from sandbox.stripe.wire import (
    Params,
    StripeError,
    as_bool,
    as_object,
    as_text,
    merged_metadata,
    missing_resource,
    parameter_invalid,
)

blueprint = Blueprint("subscriptions", __name__)


@endpoint(blueprint, "GET", "/v1/subscriptions", SubscriptionListParams)
def index(here: StandIn, params: Params) -> Json:
    """List subscriptions; without `status` those that are canceled are left out, `all` gives every one."""
    status = as_text(params, "status")
    if status not in (None, "all", "ended", *STATUSES):
        raise parameter_invalid("status", f"Invalid status: {status}")
    customer, price = customer_of(here.store, params), as_text(params, "price")
    subscriptions = [
        subscription
        for subscription in here.store.newest_first("subscription")
        if _has_status(subscription, status)
        and customer in (None, subscription["customer"])
        and (price is None or any(item["price"]["id"] == price for item in subscription["items"]["data"]))
    ]
    return page(subscriptions, params, "/v1/subscriptions")


def _has_status(subscription: Json, wanted: str | None) -> bool:
    if wanted is None:
        return bool(subscription["status"] != "canceled")
    if wanted == "ended":
        return subscription["status"] in ENDED
    return wanted in ("all", subscription["status"])


@endpoint(blueprint, "GET", "/v1/subscriptions/<subscription_id>", None)
def retrieve(here: StandIn, params: Params, subscription_id: str) -> Json:
    """One subscription, ended ones included."""
    del params
    return here.store.get("subscription", subscription_id)


@endpoint(blueprint, "POST", "/v1/subscriptions/<subscription_id>", SubscriptionUpdateParams)
def update(here: StandIn, params: Params, subscription_id: str) -> Json:
    """Change `cancel_at_period_end`, `metadata`, `description`; other parameters are accepted and ignored."""
    subscription = _living(here, subscription_id)
    details = as_object(params, "cancellation_details")
    if "cancel_at_period_end" in params:
        at_end = as_bool(params, "cancel_at_period_end")
        if at_end != subscription["cancel_at_period_end"]:
            here.lifecycle.act(subscription_id, "cancel_at_period_end" if at_end else "resume", {})
    before = dict(subscription)
    subscription |= {
        "metadata": merged_metadata(subscription["metadata"], params),
        "cancellation_details": subscription["cancellation_details"] | details,
    }
    if "description" in params:
        subscription["description"] = as_text(params, "description")
    changed = changed_fields(before, subscription)
    if changed:
        here.events.emit("customer.subscription.updated", subscription, changed)
    return subscription


@endpoint(blueprint, "DELETE", "/v1/subscriptions/<subscription_id>", SubscriptionCancelParams)
def cancel(here: StandIn, params: Params, subscription_id: str) -> Json:
    """Cancel at once."""
    subscription = _living(here, subscription_id)
    details = as_object(params, "cancellation_details")
    subscription["cancellation_details"] = subscription["cancellation_details"] | details
    return here.lifecycle.act(subscription_id, "cancel", {})


@endpoint(blueprint, "POST", "/v1/subscriptions/<subscription_id>/resume", SubscriptionResumeParams)
def resume(here: StandIn, params: Params, subscription_id: str) -> Json:
    """Resume a paused subscription."""
    del params
    if _living(here, subscription_id)["status"] != "paused":
        raise StripeError(400, "Only a paused subscription can be resumed.")
    return here.lifecycle.act(subscription_id, "resume", {})


def _living(here: StandIn, subscription_id: str) -> Json:
    """A subscription that can still change: Stripe answers as if an ended one were not there."""
    subscription = here.store.get("subscription", subscription_id)
    if subscription["status"] in ENDED:
        raise missing_resource("subscription", subscription_id)
    return subscription
