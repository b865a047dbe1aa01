"""/v1/prices and /v1/products, as far as a subscription needs them.

Any price id exists from its first use on, so that the product runs without setting up a catalogue; only ids
that begin with `price_missing` do not (https://docs.stripe.com/api/prices).
"""

from typing import Any

from flask import Blueprint
from stripe.params import PriceCreateParams, PriceListParams, ProductCreateParams, ProductListParams

from sandbox.stripe.api import StandIn, endpoint
from sandbox.stripe.listing import page
from sandbox.stripe.objects import DEFAULT_PRODUCT, price_object, product_object
from sandbox.stripe.store import Json, Store
from sandbox.stripe.wire import (
    Params,
    as_bool,
    as_int,
    as_object,
    as_required_text,
    as_text,
    merged_metadata,
    missing_resource,
    parameter_invalid,
)

blueprint = Blueprint("catalog", __name__)
MISSING_PREFIX = "price_missing"
INTERVALS = ("day", "week", "month", "year")


def find_price(store: Store, price_id: str, param: str | None = None) -> Json:
    """The price, made now if it was never used. Raises StripeError `resource_missing`."""
    if price_id.startswith(MISSING_PREFIX) or not price_id.startswith("price_"):
        raise missing_resource("price", price_id, param)
    if price_id not in store.table("price"):
        find_product(store, DEFAULT_PRODUCT)
        store.add(price_object(id=price_id))
    return store.get("price", price_id)


def find_product(store: Store, product_id: str) -> Json:
    """The product; the one of prices made on the fly is made on the fly."""
    if product_id == DEFAULT_PRODUCT and product_id not in store.table("product"):
        store.add(product_object(id=product_id))
    return store.get("product", product_id)


@endpoint(blueprint, "GET", "/v1/prices/<price_id>", None)
def retrieve_price(here: StandIn, params: Params, price_id: str) -> Json:
    """One price."""
    del params
    return find_price(here.store, price_id)


@endpoint(blueprint, "GET", "/v1/prices", PriceListParams)
def list_prices(here: StandIn, params: Params) -> Json:
    """The prices used so far."""
    wanted = {name: as_text(params, name) for name in ("product", "currency", "type") if name in params}
    prices = [
        price
        for price in here.store.newest_first("price")
        if all(price[name] == value for name, value in wanted.items())
    ]
    return page(prices, params, "/v1/prices")


@endpoint(blueprint, "POST", "/v1/prices", PriceCreateParams, required=("currency",))
def create_price(here: StandIn, params: Params) -> Json:
    """Create a recurring price, of an amount in the currency's smallest unit."""
    fields: dict[str, Any] = {"currency": as_required_text(params, "currency")}
    amount = as_int(params, "unit_amount")
    if amount is not None:
        fields["unit_amount"] = amount
    fields["product"] = as_text(params, "product") or DEFAULT_PRODUCT
    find_product(here.store, fields["product"])
    every = as_object(params, "recurring")
    price = price_object(**fields, metadata=merged_metadata({}, params))
    if every:
        interval = as_required_text(every, "interval")
        if interval not in INTERVALS:
            raise parameter_invalid("recurring[interval]", f"Invalid recurring[interval]: {interval}")
        price["recurring"] |= {"interval": interval, "interval_count": as_int(every, "interval_count", 1)}
    return here.store.add(price)


@endpoint(blueprint, "GET", "/v1/products/<product_id>", None)
def retrieve_product(here: StandIn, params: Params, product_id: str) -> Json:
    """One product."""
    del params
    return find_product(here.store, product_id)


@endpoint(blueprint, "GET", "/v1/products", ProductListParams)
def list_products(here: StandIn, params: Params) -> Json:
    """The products there are."""
    return page(here.store.newest_first("product"), params, "/v1/products")


@endpoint(blueprint, "POST", "/v1/products", ProductCreateParams, required=("name",))
def create_product(here: StandIn, params: Params) -> Json:
    """Create a product."""
    fields: dict[str, Any] = {
        "name": as_required_text(params, "name"),
        "active": as_bool(params, "active", True),
    }
    if "id" in params:
        fields["id"] = as_required_text(params, "id")
    fields |= {"description": as_text(params, "description"), "metadata": merged_metadata({}, params)}
    return here.store.add(product_object(**fields))
