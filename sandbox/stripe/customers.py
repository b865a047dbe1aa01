"""/v1/customers (https://docs.stripe.com/api/customers)."""

from typing import Any

from flask import Blueprint
from stripe.params import CustomerCreateParams, CustomerListParams, CustomerUpdateParams

from sandbox.stripe.api import StandIn, endpoint
from sandbox.stripe.events import changed_fields
from sandbox.stripe.lifecycle import ENDED
from sandbox.stripe.listing import page
from sandbox.stripe.objects import customer_object
from sandbox.stripe.store import Json
from sandbox.stripe.wire import Params, as_object, as_text, merged_metadata, missing_resource, parameter_invalid

blueprint = Blueprint("customers", __name__)
TEXT_FIELDS = ("email", "name", "phone", "description")
MAX_EMAIL_CHARS = 512


@endpoint(blueprint, "POST", "/v1/customers", CustomerCreateParams)
def create(here: StandIn, params: Params) -> Json:
    """Create a customer."""
    customer = here.store.add(customer_object(**_fields(params, {})))
    here.events.emit("customer.created", customer)
    return customer


@endpoint(blueprint, "GET", "/v1/customers", CustomerListParams)
def index(here: StandIn, params: Params) -> Json:
    """List customers that are not deleted; `email` is compared exactly, as Stripe does."""
    email = as_text(params, "email")
    customers = [
        customer
        for customer in here.store.newest_first("customer")
        if not customer.get("deleted") and (email is None or customer["email"] == email)
    ]
    return page(customers, params, "/v1/customers")


@endpoint(blueprint, "GET", "/v1/customers/<customer_id>", None)
def retrieve(here: StandIn, params: Params, customer_id: str) -> Json:
    """One customer; of a deleted one only that it was deleted."""
    del params
    customer = here.store.get("customer", customer_id)
    return _deleted(customer_id) if customer.get("deleted") else customer


@endpoint(blueprint, "POST", "/v1/customers/<customer_id>", CustomerUpdateParams)
def update(here: StandIn, params: Params, customer_id: str) -> Json:
    """Change a customer."""
    customer = _living(here, customer_id)
    before = dict(customer)
    customer |= _fields(params, customer["metadata"])
    changed = changed_fields(before, customer)
    if changed:
        here.events.emit("customer.updated", customer, changed)
    return customer


@endpoint(blueprint, "DELETE", "/v1/customers/<customer_id>", None)
def delete(here: StandIn, params: Params, customer_id: str) -> Json:
    """Delete a customer, which also cancels its subscriptions at once."""
    del params
    customer = _living(here, customer_id)
    for subscription in here.store.table("subscription").values():
        if subscription["customer"] == customer_id and subscription["status"] not in ENDED:
            here.lifecycle.act(subscription["id"], "cancel", {})
    here.events.emit("customer.deleted", customer)
    customer["deleted"] = True
    return _deleted(customer_id)


def _living(here: StandIn, customer_id: str) -> Json:
    customer = here.store.get("customer", customer_id)
    if customer.get("deleted"):
        raise missing_resource("customer", customer_id)
    return customer


def _deleted(customer_id: str) -> Json:
    return {"id": customer_id, "object": "customer", "deleted": True}


def _fields(params: Params, metadata: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: as_text(params, name) for name in TEXT_FIELDS if name in params}
    email = fields.get("email")
    if email and ("@" not in email or len(email) > MAX_EMAIL_CHARS):
        raise parameter_invalid("email", f"Invalid email address: {email}", "email_invalid")
    if "address" in params:
        fields["address"] = as_object(params, "address") or None
    return fields | {"metadata": merged_metadata(metadata, params)}
