"""Stripe's objects as JSON, in the shapes of the pinned API version.

Field lists: the typed classes of the `stripe` package and https://docs.stripe.com/api. Fields that only
features outside of this product use are left out or null.
"""

import calendar
from datetime import UTC, datetime
from typing import Any

from sandbox.stripe.store import Json, new_id, now

DEFAULT_AMOUNT_CENTS = 999
DEFAULT_CURRENCY = "usd"
DEFAULT_PRODUCT = "prod_sandboxPro"


def months_later(timestamp: int, months: int = 1) -> int:
    """The same day and time some months on; the last day of the month when there is no such day."""
    at = datetime.fromtimestamp(timestamp, UTC)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    day = min(at.day, calendar.monthrange(year, month + 1)[1])
    return int(at.replace(year=year, month=month + 1, day=day).timestamp())


def period_end(start: int, price: Json) -> int:
    """When a billing period that starts at `start` ends."""
    every = price.get("recurring") or {"interval": "month", "interval_count": 1}
    count = int(every["interval_count"])
    if every["interval"] in ("day", "week"):
        return start + count * {"day": 1, "week": 7}[every["interval"]] * 86_400
    return months_later(start, count * (12 if every["interval"] == "year" else 1))


def list_object(data: list[Json], url: str, has_more: bool = False) -> Json:
    """https://docs.stripe.com/api/pagination"""
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def customer_object(**fields: Any) -> Json:
    """https://docs.stripe.com/api/customers/object"""
    return {
        "id": new_id("cus_"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": now(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "email": None,
        "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None},
        "livemode": False,
        "metadata": {},
        "name": None,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    } | fields


def product_object(**fields: Any) -> Json:
    """https://docs.stripe.com/api/products/object"""
    made = now()
    return {
        "id": new_id("prod_"),
        "object": "product",
        "active": True,
        "created": made,
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "name": "Pro",
        "type": "service",
        "updated": made,
        "url": None,
    } | fields


def price_object(**fields: Any) -> Json:
    """https://docs.stripe.com/api/prices/object"""
    price = {
        "id": new_id("price_"),
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": now(),
        "currency": DEFAULT_CURRENCY,
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": DEFAULT_PRODUCT,
        "recurring": {
            "interval": "month",
            "interval_count": 1,
            "meter": None,
            "trial_period_days": None,
            "usage_type": "licensed",
        },
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring",
        "unit_amount": DEFAULT_AMOUNT_CENTS,
    } | fields
    return price | {"unit_amount_decimal": str(price["unit_amount"])}


def subscription_item(subscription_id: str, price: Json, start: int, end: int, quantity: int = 1) -> Json:
    """https://docs.stripe.com/api/subscription_items/object: the billing period lives here."""
    return {
        "id": new_id("si_"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": now(),
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": {},
        "price": price,
        "quantity": quantity,
        "subscription": subscription_id,
        "tax_rates": [],
    }


def subscription_object(customer: str, lines: list[tuple[Json, int]], start: int, **fields: Any) -> Json:
    """https://docs.stripe.com/api/subscriptions/object; lines: price and quantity."""
    subscription_id = new_id("sub_")
    items = [
        subscription_item(subscription_id, price, start, period_end(start, price), quantity)
        for price, quantity in lines
    ]
    return {
        "id": subscription_id,
        "object": "subscription",
        "application": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": start,
        "billing_mode": {
            "type": "flexible",
            "flexible": {"proration_discounts": "included"},
            "updated_at": None,
        },
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": start,
        "currency": lines[0][0]["currency"],
        "customer": customer,
        "days_until_due": None,
        "default_payment_method": new_id("pm_"),
        "default_source": None,
        "description": None,
        "discounts": [],
        "ended_at": None,
        "items": list_object(items, f"/v1/subscription_items?subscription={subscription_id}")
        | {"total_count": len(items)},
        "latest_invoice": None,
        "livemode": False,
        "metadata": {},
        "pause_collection": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": start,
        "status": "incomplete",
        "test_clock": None,
        "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
    } | fields


def portal_object(customer: str, return_url: str | None, base_url: str) -> Json:
    """https://docs.stripe.com/api/customer_portal/sessions/object"""
    session_id = new_id("bps_")
    return {
        "id": session_id,
        "object": "billing_portal.session",
        "configuration": "bpc_sandbox",
        "created": now(),
        "customer": customer,
        "flow": None,
        "livemode": False,
        "locale": None,
        "on_behalf_of": None,
        "return_url": return_url,
        "url": f"{base_url}/portal/{session_id}",
    }
