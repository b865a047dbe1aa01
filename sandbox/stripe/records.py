"""What can only be read: /v1/invoices and /v1/events.

https://docs.stripe.com/api/invoices, https://docs.stripe.com/api/events
"""

from flask import Blueprint
from stripe.params import EventListParams, InvoiceListParams

from sandbox.stripe.api import endpoint
from sandbox.stripe.errors import missing_resource
from sandbox.stripe.events import of_types
from sandbox.stripe.forms import Params, as_list, as_text
from sandbox.stripe.listing import customer_of, page
from sandbox.stripe.stand_in import StandIn
from sandbox.stripe.store import Json

blueprint = Blueprint("records", __name__)


@endpoint(blueprint, "GET", "/v1/invoices", InvoiceListParams)
def list_invoices(here: StandIn, params: Params) -> Json:
    """List invoices by customer, status, subscription."""
    customer = customer_of(here.store, params)
    status, subscription = (as_text(params, name) for name in ("status", "subscription"))
    invoices = [
        invoice
        for invoice in here.store.newest_first("invoice")
        if customer in (None, invoice["customer"])
        and status in (None, invoice["status"])
        and subscription in (None, invoice["parent"]["subscription_details"]["subscription"])
    ]
    return page(invoices, params, "/v1/invoices")


@endpoint(blueprint, "GET", "/v1/invoices/<invoice_id>", None)
def retrieve_invoice(here: StandIn, params: Params, invoice_id: str) -> Json:
    """One invoice."""
    del params
    return here.store.get("invoice", invoice_id)


@endpoint(blueprint, "GET", "/v1/events", EventListParams)
def list_events(here: StandIn, params: Params) -> Json:
    """List events, newest first, by `type` or `types`."""
    kind = as_text(params, "type")
    wanted = [kind] if kind else [str(one) for one in as_list(params, "types")]
    return page(of_types(reversed(here.events.all()), wanted), params, "/v1/events")


@endpoint(blueprint, "GET", "/v1/events/<event_id>", None)
def retrieve_event(here: StandIn, params: Params, event_id: str) -> Json:
    """One event."""
    del params
    for event in here.events.all():
        if event["id"] == event_id:
            return event
    raise missing_resource("event", event_id)
