"""The part of Stripe's API that the product calls: customers, Checkout sessions, subscriptions, the billing portal.

https://docs.stripe.com/api. Any price id that begins with `price_` exists from its first use on, so that nobody has to
set up a catalogue; only those that begin with `price_missing` do not.
"""

from flask import Blueprint, request
from stripe.params import CustomerCreateParams, SubscriptionCancelParams, SubscriptionListParams
from stripe.params.billing_portal import SessionCreateParams as PortalParams
from stripe.params.checkout import SessionCreateParams, SessionExpireParams, SessionListParams

from sandbox.stripe.api import StandIn, endpoint
from sandbox.stripe.lifecycle import ENDED, STATUSES
from sandbox.stripe.objects import customer_object, portal_object, price_object, session_object
from sandbox.stripe.store import Json, Store, page
from sandbox.stripe.wire import (
    Params,
    StripeError,
    as_metadata,
    as_required_text,
    as_text,
    missing_resource,
    parameter_invalid,
)

blueprint = Blueprint("resources", __name__)
MISSING_PREFIX = "price_missing"


@endpoint(blueprint, "POST", "/v1/customers", CustomerCreateParams)
def create_customer(here: StandIn, params: Params) -> Json:
    """Create a customer."""
    fields = {name: as_text(params, name) for name in ("email", "name") if name in params}
    customer = here.store.add(customer_object(**fields, metadata=as_metadata(params)))
    here.events.emit("customer.created", customer)
    return customer


@endpoint(blueprint, "GET", "/v1/customers/<customer_id>", None)
def retrieve_customer(here: StandIn, _: Params, customer_id: str) -> Json:
    """Return a customer; of a deleted one, only that it was deleted."""
    customer = here.store.get("customer", customer_id)
    return _deleted(customer_id) if customer.get("deleted") else customer


@endpoint(blueprint, "DELETE", "/v1/customers/<customer_id>", None)
def delete_customer(here: StandIn, _: Params, customer_id: str) -> Json:
    """Delete a customer, which also cancels its subscriptions at once."""
    customer = here.store.get("customer", customer_id)
    if customer.get("deleted"):
        raise missing_resource("customer", customer_id)
    for subscription in here.store.table("subscription").values():
        if subscription["customer"] == customer_id and subscription["status"] not in ENDED:
            here.lifecycle.act(subscription["id"], "cancel", {})
    here.events.emit("customer.deleted", customer)
    customer["deleted"] = True
    return _deleted(customer_id)


@endpoint(blueprint, "POST", "/v1/checkout/sessions", SessionCreateParams, required=("line_items", "customer"))
def create_session(here: StandIn, params: Params) -> Json:
    """Create a session in `subscription` mode for one price, paid on the stand-in's own page."""
    if as_required_text(params, "mode") != "subscription":
        raise StripeError(400, "The stand-in supports only the mode `subscription`.", param="mode")
    customer = _customer(here.store, params)
    price = _price(here.store, as_required_text(params["line_items"][0], "price"))
    email = customer["email"]
    session = session_object(
        price,
        request.host_url,
        customer=customer["id"],
        customer_details={"email": email, "name": None, "phone": None} if email else None,
        client_reference_id=as_text(params, "client_reference_id"),
        metadata=as_metadata(params),
        success_url=as_required_text(params, "success_url"),
        cancel_url=as_text(params, "cancel_url"),
    )
    metadata = as_metadata(params.get("subscription_data") or {})
    here.store.table("line_items")[session["id"]] = {"data": [{"price": price}], "metadata": metadata}
    return here.store.add(session)


@endpoint(blueprint, "GET", "/v1/checkout/sessions", SessionListParams)
def list_sessions(here: StandIn, params: Params) -> Json:
    """List sessions by customer, status, subscription."""
    _check_customer(here.store, params)
    wanted = {name: as_text(params, name) for name in ("customer", "status", "subscription") if name in params}
    sessions = [here.payments.session(session["id"]) for session in here.store.newest_first("checkout.session")]
    fitting = [session for session in sessions if all(session[name] == value for name, value in wanted.items())]
    return page(fitting, params, "/v1/checkout/sessions")


@endpoint(blueprint, "GET", "/v1/checkout/sessions/<session_id>", None)
def retrieve_session(here: StandIn, _: Params, session_id: str) -> Json:
    """Return a session."""
    return here.payments.session(session_id)


@endpoint(blueprint, "POST", "/v1/checkout/sessions/<session_id>/expire", SessionExpireParams)
def expire_session(here: StandIn, _: Params, session_id: str) -> Json:
    """Expire an open session."""
    return here.payments.expire(session_id)


@endpoint(blueprint, "GET", "/v1/subscriptions", SubscriptionListParams)
def list_subscriptions(here: StandIn, params: Params) -> Json:
    """List subscriptions: without `status`, all but the canceled ones; with `all`, every one."""
    status = as_text(params, "status")
    if status not in (None, "all", *STATUSES):
        raise parameter_invalid("status", f"Invalid status: {status}")
    _check_customer(here.store, params)
    customer = as_text(params, "customer")
    fitting = [
        subscription
        for subscription in here.store.newest_first("subscription")
        if (subscription["status"] != "canceled" if status is None else status in ("all", subscription["status"]))
        and customer in (None, subscription["customer"])
    ]
    return page(fitting, params, "/v1/subscriptions")


@endpoint(blueprint, "GET", "/v1/subscriptions/<subscription_id>", None)
def retrieve_subscription(here: StandIn, _: Params, subscription_id: str) -> Json:
    """Return a subscription, even one that has ended."""
    return here.store.get("subscription", subscription_id)


@endpoint(blueprint, "DELETE", "/v1/subscriptions/<subscription_id>", SubscriptionCancelParams)
def cancel_subscription(here: StandIn, _: Params, subscription_id: str) -> Json:
    """Cancel at once. As at Stripe, a subscription that has ended is answered as missing."""
    if here.store.get("subscription", subscription_id)["status"] in ENDED:
        raise missing_resource("subscription", subscription_id)
    return here.lifecycle.act(subscription_id, "cancel", {})


@endpoint(blueprint, "POST", "/v1/billing_portal/sessions", PortalParams, required=("customer",))
def create_portal_session(here: StandIn, params: Params) -> Json:
    """Create a session whose `url` is the stand-in's portal page for the customer."""
    customer = _customer(here.store, params)
    return here.store.add(portal_object(customer["id"], as_text(params, "return_url"), request.host_url))


def _deleted(customer_id: str) -> Json:
    return {"id": customer_id, "object": "customer", "deleted": True}


def _customer(store: Store, params: Params) -> Json:
    """Return the customer that a parameter names. Raises StripeError `resource_missing`, also for a deleted one."""
    customer_id = as_required_text(params, "customer")
    customer = store.get("customer", customer_id, "customer")
    if customer.get("deleted"):
        raise missing_resource("customer", customer_id, "customer")
    return customer


def _check_customer(store: Store, params: Params) -> None:
    """Raise StripeError `resource_missing` if the customer asked for never existed."""
    customer_id = as_text(params, "customer")
    if customer_id:
        store.get("customer", customer_id, "customer")


def _price(store: Store, price_id: str) -> Json:
    """Return the price, and make it if it is used for the first time. Raises StripeError `resource_missing`."""
    if price_id.startswith(MISSING_PREFIX) or not price_id.startswith("price_"):
        raise missing_resource("price", price_id, "line_items[0][price]")
    if price_id not in store.table("price"):
        store.add(price_object(price_id))
    return store.get("price", price_id)
