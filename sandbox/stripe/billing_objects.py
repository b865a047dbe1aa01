"""The larger objects: Checkout sessions and invoices, in the shapes of the pinned API version."""

from typing import Any

from sandbox.stripe.objects import list_object
from sandbox.stripe.store import Json, new_id, now

CHECKOUT_LIFETIME_SECONDS = 24 * 3600  # https://docs.stripe.com/api/checkout/sessions/create: 24 hours


def line_item_object(price: Json, quantity: int) -> Json:
    """https://docs.stripe.com/api/checkout/sessions/line_items"""
    amount = price["unit_amount"] * quantity
    return {
        "id": new_id("li_"),
        "object": "item",
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": "Pro",
        "metadata": {},
        "price": price,
        "quantity": quantity,
    }


def session_object(amount: int, currency: str, base_url: str, **fields: Any) -> Json:
    """https://docs.stripe.com/api/checkout/sessions/object; amount in the currency's smallest unit."""
    session_id, made = new_id("cs_test_"), now()
    return {
        "id": session_id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False},
        "after_expiration": None,
        "allow_promotion_codes": None,
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "cancel_url": None,
        "client_reference_id": None,
        "client_secret": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "created": made,
        "currency": currency,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {"after_submit": None, "submit": None},
        "customer": None,
        "customer_creation": None,
        "customer_details": None,
        "customer_email": None,
        "discounts": [],
        "expires_at": made + CHECKOUT_LIFETIME_SECONDS,
        "invoice": None,
        "invoice_creation": None,
        "livemode": False,
        "locale": None,
        "metadata": {},
        "mode": "subscription",
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "always",
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "success_url": None,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{base_url}/c/pay/{session_id}",
        "wallet_options": None,
    } | fields


def invoice_object(subscription: Json, customer: Json, reason: str) -> Json:
    """An open invoice for the subscription's current period; free while it is on trial.

    https://docs.stripe.com/api/invoices/object: the subscription is named under `parent`.
    """
    invoice_id, made = new_id("in_"), now()
    subscription_id, items = subscription["id"], subscription["items"]["data"]
    lines = [_invoice_line(invoice_id, item, subscription) for item in items]
    total = sum(line["amount"] for line in lines)
    return {
        "id": invoice_id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Sandbox",
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": total,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "status": None},
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": made,
        "currency": subscription["currency"],
        "customer": customer["id"],
        "customer_email": customer.get("email"),
        "customer_name": customer.get("name"),
        "description": None,
        "due_date": None,
        "effective_at": made,
        "ending_balance": 0,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "lines": list_object(lines, f"/v1/invoices/{invoice_id}/lines") | {"total_count": len(lines)},
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": f"SANDBOX-{invoice_id[-4:].upper()}",
        "parent": {
            "quote_details": None,
            "subscription_details": {
                "metadata": dict(subscription["metadata"]),
                "subscription": subscription_id,
            },
            "type": "subscription_details",
        },
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
        "test_clock": None,
        "total": total,
        "total_taxes": [],
    }


def _invoice_line(invoice_id: str, item: Json, subscription: Json) -> Json:
    price = item["price"]
    amount = 0 if subscription["status"] == "trialing" else price["unit_amount"] * item["quantity"]
    return {
        "id": new_id("il_"),
        "object": "line_item",
        "amount": amount,
        "currency": price["currency"],
        "description": f"{item['quantity']} x Pro",
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "metadata": dict(subscription["metadata"]),
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "subscription": subscription["id"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"end": item["current_period_end"], "start": item["current_period_start"]},
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": item["quantity"],
        "subtotal": amount,
        "taxes": [],
    }
