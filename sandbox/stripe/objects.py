"""Stripe's objects as JSON, in the shapes of the pinned API version.

The `stripe` package's typed classes name the fields that may be null; https://docs.stripe.com/api says what the others
are. Fields that only features outside of this product use are null or left out.
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
    """A new object of a class of Stripe's, null where it may be; name: as in its field `object`."""
    hints = kind.__annotations__
    nulls = {field: None for field, hint in hints.items() if type(None) in get_args(hint) and field != "deleted"}
    common = {"id": new_id(prefix), "object": name, "created": now(), "livemode": False, "metadata": {}}
    return nulls | {field: value for field, value in common.items() if field in hints}


def months_later(timestamp: int, months: int = 1) -> int:
    """The same day and time some months on; the last day of the month when there is no such day."""
    at = datetime.fromtimestamp(timestamp, UTC)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
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


def subscription_item(subscription_id: str, price: Json, start: int, end: int, quantity: int) -> Json:
    """https://docs.stripe.com/api/subscription_items/object: the billing period lives here."""
    return new(stripe.SubscriptionItem, "subscription_item", "si_") | {
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "price": price,
        "quantity": quantity,
        "subscription": subscription_id,
    }


def subscription_object(customer: str, lines: list[tuple[Json, int]], start: int, metadata: Json) -> Json:
    """https://docs.stripe.com/api/subscriptions/object; lines: price and quantity."""
    subscription = new(stripe.Subscription, "subscription", "sub_")
    own_id, end = subscription["id"], months_later(start)
    items = [subscription_item(own_id, price, start, end, quantity) for price, quantity in lines]
    return subscription | {
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": start,
        "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "included"}},
        "cancel_at_period_end": False,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": start,
        "currency": lines[0][0]["currency"],
        "customer": customer,
        "default_payment_method": new_id("pm_"),
        "discounts": [],
        "items": list_object(items, f"/v1/subscription_items?subscription={own_id}") | {"total_count": len(items)},
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


def line_object(price: Json, quantity: int) -> Json:
    """https://docs.stripe.com/api/checkout/sessions/line_items"""
    amount = price["unit_amount"] * quantity
    return new(stripe.LineItem, "item", "li_") | {
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": "Pro",
        "price": price,
        "quantity": quantity,
    }


def session_object(amount: int, currency: str, base_url: str, **fields: Any) -> Json:
    """https://docs.stripe.com/api/checkout/sessions/object; amount in the currency's smallest unit."""
    session = new(checkout.Session, "checkout.session", "cs_test_")
    return (
        session
        | {
            "amount_subtotal": amount,
            "amount_total": amount,
            "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
            "currency": currency,
            "custom_fields": [],
            "custom_text": {"after_submit": None, "submit": None},
            "expires_at": session["created"] + CHECKOUT_LIFETIME_SECONDS,
            "mode": "subscription",
            "payment_method_types": ["card"],
            "payment_status": "unpaid",
            "shipping_options": [],
            "status": "open",
            "ui_mode": "hosted_page",
            "url": f"{base_url}c/pay/{session['id']}",
        }
        | fields
    )


def invoice_object(subscription: Json, customer: Json, reason: str) -> Json:
    """An open invoice for the subscription's current period.

    https://docs.stripe.com/api/invoices/object: the subscription is named under `parent`.
    """
    invoice = new(stripe.Invoice, "invoice", "in_")
    invoice_id, made = invoice["id"], invoice["created"]
    lines = [_invoice_line(invoice_id, item, subscription) for item in subscription["items"]["data"]]
    total = sum(line["amount"] for line in lines)
    named = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
    return invoice | {
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": total,
        "attempt_count": 0,
        "attempted": False,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "status": None},
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "currency": subscription["currency"],
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "discounts": [],
        "effective_at": made,
        "lines": list_object(lines, f"/v1/invoices/{invoice_id}/lines") | {"total_count": len(lines)},
        "number": f"SANDBOX-{invoice_id[-4:].upper()}",
        "parent": {"quote_details": None, "subscription_details": named, "type": "subscription_details"},
        "period_end": made,
        "period_start": made,
        "starting_balance": 0,
        "status": "open",
        "status_transitions": {
            "finalized_at": made,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "subtotal": total,
        "total": total,
    }


def _invoice_line(invoice_id: str, item: Json, subscription: Json) -> Json:
    price, amount = item["price"], item["price"]["unit_amount"] * item["quantity"]
    named = {"proration": False, "subscription": subscription["id"], "subscription_item": item["id"]}
    return new(stripe.InvoiceLineItem, "line_item", "il_") | {
        "amount": amount,
        "currency": price["currency"],
        "description": f"{item['quantity']} x Pro",
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "metadata": dict(subscription["metadata"]),
        "parent": {"subscription_item_details": named, "type": "subscription_item_details"},
        "period": {"end": item["current_period_end"], "start": item["current_period_start"]},
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": item["quantity"],
        "subtotal": amount,
    }
