"""/v1/billing_portal/sessions (https://docs.stripe.com/api/customer_portal/sessions)."""

from flask import Blueprint
from stripe.params.billing_portal import SessionCreateParams

from sandbox.stripe.api import endpoint
from sandbox.stripe.errors import missing_resource
from sandbox.stripe.forms import Params, as_required_text, as_url
from sandbox.stripe.objects import portal_object
from sandbox.stripe.stand_in import StandIn
from sandbox.stripe.store import Json

blueprint = Blueprint("portal", __name__)


@endpoint(blueprint, "POST", "/v1/billing_portal/sessions", SessionCreateParams, required=("customer",))
def create(here: StandIn, params: Params) -> Json:
    """Create a session whose `url` is the stand-in's portal page for the customer."""
    customer_id = as_required_text(params, "customer")
    if here.store.get("customer", customer_id, "customer").get("deleted"):
        raise missing_resource("customer", customer_id, "customer")
    session = portal_object(customer_id, as_url(params, "return_url"), here.base_url())
    return here.store.add(session)
