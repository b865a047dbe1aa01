"""/v1/checkout/sessions (https://docs.stripe.com/api/checkout/sessions).

/v1/billing_portal/sessions (https://docs.stripe.com/api/customer_portal/sessions).
"""

from typing import Any

from flask import Blueprint
from stripe.params.billing_portal import SessionCreateParams as PortalParams
from stripe.params.checkout import SessionCreateParams, SessionExpireParams, SessionListParams

from sandbox.stripe.api import StandIn, endpoint
from sandbox.stripe.billing_objects import line_item_object, session_object
from sandbox.stripe.catalog import find_price
from sandbox.stripe.listing import customer_of, page
from sandbox.stripe.objects import list_object, portal_object
from sandbox.stripe.store import Json, now
from sandbox.stripe.wire import (
    Params,
    StripeError,
    as_int,
    as_list,
    as_object,
    as_required_text,
    as_text,
    as_url,
    merged_metadata,
    missing_resource,
    parameter_invalid,
    parameter_missing,
)

blueprint = Blueprint("checkout", __name__)
MAX_REFERENCE_CHARS = 200
SHORTEST_SECONDS, LONGEST_SECONDS = 30 * 60, 24 * 3600  # of `expires_at`, as Stripe documents it
HOSTED = (None, "hosted", "hosted_page")


@endpoint(blueprint, "POST", "/v1/checkout/sessions", SessionCreateParams, required=("line_items",))
def create(here: StandIn, params: Params) -> Json:
    """Create a session in `subscription` mode, paid on the stand-in's own page."""
    if as_required_text(params, "mode") != "subscription":
        raise StripeError(400, "The stand-in knows the mode `subscription` only.", param="mode")
    if as_text(params, "ui_mode") not in HOSTED:
        raise StripeError(400, "The stand-in knows hosted pages only.", param="ui_mode")
    if not as_url(params, "success_url"):
        raise parameter_missing("success_url")
    lines = [_line(here, entry, position) for position, entry in enumerate(as_list(params, "line_items"))]
    currency = lines[0]["currency"]
    session = session_object(
        sum(line["amount_total"] for line in lines), currency, here.base_url(), **_fields(here, params)
    )
    subscription_data = as_object(params, "subscription_data")
    here.store.table("line_items")[session["id"]] = {
        "data": lines,
        "metadata": merged_metadata({}, subscription_data),
        "description": as_text(subscription_data, "description"),
        "trial_days": as_int(subscription_data, "trial_period_days", 0),
    }
    return here.store.add(session)


def _fields(here: StandIn, params: Params) -> dict[str, Any]:
    customer_id, email = as_text(params, "customer"), as_text(params, "customer_email")
    if customer_id and email:
        raise parameter_invalid("customer", "You may only specify one of these parameters: customer, customer_email.")
    if customer_id:
        customer = here.store.get("customer", customer_id, "customer")
        if customer.get("deleted"):
            raise missing_resource("customer", customer_id, "customer")
        email = customer["email"]
    reference = as_text(params, "client_reference_id")
    if reference and len(reference) > MAX_REFERENCE_CHARS:
        raise parameter_invalid("client_reference_id", f"At most {MAX_REFERENCE_CHARS} characters.")
    fields: dict[str, Any] = {
        "customer": customer_id,
        "customer_creation": None if customer_id else "always",
        "customer_email": None if customer_id else email,
        "customer_details": {"email": email, "name": None, "phone": None} if email else None,
        "client_reference_id": reference,
        "metadata": merged_metadata({}, params),
        "success_url": as_url(params, "success_url"),
        "cancel_url": as_url(params, "cancel_url"),
        "locale": as_text(params, "locale"),
    }
    expires_at = as_int(params, "expires_at")
    if expires_at is not None:
        if not SHORTEST_SECONDS - 60 <= expires_at - now() <= LONGEST_SECONDS + 60:
            raise parameter_invalid("expires_at", "The session must expire in 30 minutes to 24 hours from now.")
        fields["expires_at"] = expires_at
    return fields


def _line(here: StandIn, entry: Any, position: int) -> Json:
    name = f"line_items[{position}][price]"
    if not isinstance(entry, dict) or not as_text(entry, "price"):
        raise parameter_missing(name)
    quantity = as_int(entry, "quantity", 1) or 1
    return line_item_object(find_price(here.store, as_required_text(entry, "price"), name), quantity)


@endpoint(blueprint, "GET", "/v1/checkout/sessions", SessionListParams)
def index(here: StandIn, params: Params) -> Json:
    """List sessions by customer, status, subscription."""
    customer_of(here.store, params)
    wanted = {name: as_text(params, name) for name in ("customer", "status", "subscription") if name in params}
    sessions = [here.payments.session(session["id"]) for session in here.store.newest_first("checkout.session")]
    fitting = [session for session in sessions if all(session[name] == value for name, value in wanted.items())]
    return page(fitting, params, "/v1/checkout/sessions")


@endpoint(blueprint, "GET", "/v1/checkout/sessions/<session_id>", None)
def retrieve(here: StandIn, params: Params, session_id: str) -> Json:
    """One session."""
    del params
    return here.payments.session(session_id)


@endpoint(blueprint, "GET", "/v1/checkout/sessions/<session_id>/line_items", SessionListParams)
def line_items(here: StandIn, params: Params, session_id: str) -> Json:
    """What the session sells."""
    del params
    here.payments.session(session_id)
    lines = here.store.table("line_items")[session_id]["data"]
    return list_object(lines, f"/v1/checkout/sessions/{session_id}/line_items")


@endpoint(blueprint, "POST", "/v1/checkout/sessions/<session_id>/expire", SessionExpireParams)
def expire(here: StandIn, params: Params, session_id: str) -> Json:
    """Expire an open session."""
    del params
    return here.payments.expire(session_id)


portal_blueprint = Blueprint("portal", __name__)


@endpoint(portal_blueprint, "POST", "/v1/billing_portal/sessions", PortalParams, required=("customer",))
def create_portal_session(here: StandIn, params: Params) -> Json:
    """Create a session whose `url` is the stand-in's portal page for the customer."""
    customer_id = as_required_text(params, "customer")
    if here.store.get("customer", customer_id, "customer").get("deleted"):
        raise missing_resource("customer", customer_id, "customer")
    session = portal_object(customer_id, as_url(params, "return_url"), here.base_url())
    return here.store.add(session)
