"""Stripe's objects as JSON, in the shapes of the pinned API version.

The `stripe` package's typed classes name the fields that may be null; https://docs.stripe.com/api describes the others.
Fields of features that the product does not use are null or left out.
"""

import calendar
from datetime import UTC, datetime
from typing import Any, get_args

import stripe
from stripe import billing_portal, checkout

from sandbox.stripe.store import Json, list_object, new_id, now

AMOUNT_CENTS = 999
CHECKOUT_LIFETIME_SECONDS = 24 * 3600  # https://docs.stripe.com/api/checkout/sessions/create: 24 hours


def new(kind: type, name: str, prefix: str) -> Json:
    """Return a new object of one of Stripe's classes, with null where it may be. name: the value of `object`."""
    hints = kind.__annotations__
    nulls = {field: None for field, hint in hints.items() if type(None) in get_args(hint) and field != "deleted"}
    common = {"id": new_id(prefix), "object": name, "created": now(), "livemode": False, "metadata": {}}
    return nulls | {field: value for field, value in common.items() if field in hints}


def month_later(timestamp: int) -> int:
    """Return the same day and time a month later, or the last day of that month if it has no such day."""
    at = datetime.fromtimestamp(timestamp, UTC)
    year, month = divmod(at.year * 12 + at.month, 12)
    day = min(at.day, calendar.monthrange(year, month + 1)[1])
    return int(at.replace(year=year, month=month + 1, day=day).timestamp())


def customer_object(**fields: Any) -> Json:
    """https://docs.stripe.com/api/customers/object"""
    return new(stripe.Customer, "customer", "cus_") | fields


def price_object(price_id: str) -> Json:
    """https://docs.stripe.com/api/prices/object: $9.99 a month."""
    return new(stripe.Price, "price", "price_") | {
        "id": price_id,
        "active": True,
        "billing_scheme": "per_unit",
        "currency": "usd",
        "product": "prod_sandboxPro",
        "recurring": {"interval": "month", "interval_count": 1, "meter": None, "usage_type": "licensed"},
        "type": "recurring",
        "unit_amount": AMOUNT_CENTS,
        "unit_amount_decimal": str(AMOUNT_CENTS),
    }


def subscription_object(customer: str, price: Json, start: int, metadata: Json) -> Json:
    """https://docs.stripe.com/api/subscriptions/object: its only item has the billing period."""
    subscription = new(stripe.Subscription, "subscription", "sub_")
    item = new(stripe.SubscriptionItem, "subscription_item", "si_") | {
        "current_period_end": month_later(start),
        "current_period_start": start,
        "price": price,
        "quantity": 1,
        "subscription": subscription["id"],
    }
    return subscription | {
        "billing_cycle_anchor": start,
        "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "included"}},
        "cancel_at_period_end": False,
        "collection_method": "charge_automatically",
        "created": start,
        "currency": price["currency"],
        "customer": customer,
        "items": list_object([item], f"/v1/subscription_items?subscription={subscription['id']}"),
        "metadata": metadata,
        "start_date": start,
        "status": "incomplete",
    }


def portal_object(customer: str, return_url: str | None, base_url: str) -> Json:
    """https://docs.stripe.com/api/customer_portal/sessions/object"""
    portal = new(billing_portal.Session, "billing_portal.session", "bps_")
    return portal | {
        "configuration": "bpc_sandbox",
        "customer": customer,
        "return_url": return_url,
        "url": f"{base_url}portal/{portal['id']}",
    }


def session_object(price: Json, base_url: str, **fields: Any) -> Json:
    """https://docs.stripe.com/api/checkout/sessions/object"""
    session = new(checkout.Session, "checkout.session", "cs_test_")
    own = {
        "amount_subtotal": price["unit_amount"],
        "amount_total": price["unit_amount"],
        "currency": price["currency"],
        "expires_at": session["created"] + CHECKOUT_LIFETIME_SECONDS,
        "mode": "subscription",
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "status": "open",
        "ui_mode": "hosted_page",
        "url": f"{base_url}c/pay/{session['id']}",
    }
    return session | own | fields


def invoice_object(subscription: Json, reason: str) -> Json:
    """Return an open invoice for the subscription's current period.

    https://docs.stripe.com/api/invoices/object: `parent` names the subscription.
    """
    amount = subscription["items"]["data"][0]["price"]["unit_amount"]
    named = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
    return new(stripe.Invoice, "invoice", "in_") | {
        "amount_due": amount,
        "amount_paid": 0,
        "attempt_count": 0,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "currency": subscription["currency"],
        "customer": subscription["customer"],
        "parent": {"quote_details": None, "subscription_details": named, "type": "subscription_details"},
        "status": "open",
        "total": amount,
    }
