"""What happens at a Checkout session: paid, declined, paid late, expired.

https://docs.stripe.com/payments/checkout/fulfillment and https://docs.stripe.com/billing/subscriptions/webhooks
"""

from sandbox.stripe.billing_objects import invoice_object
from sandbox.stripe.errors import StripeError
from sandbox.stripe.events import Events, changed_fields
from sandbox.stripe.objects import customer_object, subscription_object
from sandbox.stripe.store import Json, Store, now

DAY_SECONDS = 86_400


class Payments:
    """Use cases of a Checkout session. Call them with the store's lock held."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store, self._events = store, events

    def session(self, session_id: str) -> Json:
        """The session, expired first if its time is over."""
        session = self._store.get("checkout.session", session_id)
        if session["status"] == "open" and session["expires_at"] <= now():
            self._close(session, "expired")
        return session

    def expire(self, session_id: str) -> Json:
        """End an open session (https://docs.stripe.com/api/checkout/sessions/expire)."""
        session = self._open(session_id, "expired")
        self._close(session, "expired")
        return session

    def pay(self, session_id: str) -> Json:
        """The customer pays: an active subscription, a paid invoice, a complete session."""
        session = self._open(session_id, "paid")
        subscription = self._subscribe(session)
        trial = subscription["trial_end"] is not None
        session["payment_status"] = "no_payment_required" if trial else "paid"
        self._events.emit("checkout.session.completed", session)
        self._events.emit("customer.subscription.created", subscription)
        self.settle(subscription, "trialing" if trial else "active")
        return session

    def pay_async(self, session_id: str) -> Json:
        """The customer pays by a method that takes days: complete, yet unpaid, and nothing is active."""
        session = self._open(session_id, "paid")
        subscription = self._subscribe(session)
        self._events.emit("checkout.session.completed", session)
        self._events.emit("customer.subscription.created", subscription)
        return session

    def async_succeeded(self, session_id: str) -> Json:
        """The late payment arrived."""
        session = self._unsettled(session_id)
        session["payment_status"] = "paid"
        self._events.emit("checkout.session.async_payment_succeeded", session)
        self.settle(self._store.get("subscription", session["subscription"]), "active")
        return session

    def async_failed(self, session_id: str) -> Json:
        """The late payment failed: the subscription never starts."""
        session = self._unsettled(session_id)
        self._events.emit("checkout.session.async_payment_failed", session)
        subscription = self._store.get("subscription", session["subscription"])
        invoice = self._store.get("invoice", subscription["latest_invoice"])
        invoice |= {"attempted": True, "attempt_count": 1, "status": "void"}
        self._events.emit("invoice.payment_failed", invoice)
        before = dict(subscription)
        subscription |= {"status": "incomplete_expired", "ended_at": now()}
        self._events.emit("customer.subscription.updated", subscription, changed_fields(before, subscription))
        return session

    def settle(self, subscription: Json, status: str, before: Json | None = None) -> None:
        """Pay the subscription's latest invoice, if it is open, and give the subscription a status.

        before: the subscription as the last event told it; as it is now when None.
        """
        before = before or dict(subscription)
        invoice = self._store.table("invoice").get(subscription["latest_invoice"] or "")
        subscription["status"] = status
        if invoice and invoice["status"] == "open":
            transitions = invoice["status_transitions"] | {"paid_at": now()}
            invoice |= {
                "status": "paid",
                "attempted": True,
                "attempt_count": invoice["attempt_count"] + 1,
                "amount_paid": invoice["amount_due"],
                "amount_remaining": 0,
                "next_payment_attempt": None,
                "status_transitions": transitions,
            }
            self._events.emit("invoice.paid", invoice)
            self._events.emit("invoice.payment_succeeded", invoice)
        self._events.emit("customer.subscription.updated", subscription, changed_fields(before, subscription))

    def new_invoice(self, subscription: Json, reason: str) -> Json:
        """An open invoice for the current period, the subscription's latest from now on."""
        customer = self._store.get("customer", subscription["customer"])
        invoice = self._store.add(invoice_object(subscription, customer, reason))
        subscription["latest_invoice"] = invoice["id"]
        return invoice

    def _subscribe(self, session: Json) -> Json:
        customer = self._customer(session)
        kept = self._store.table("line_items")[session["id"]]
        lines = [(line["price"], line["quantity"]) for line in kept["data"]]
        start = now()
        subscription = subscription_object(customer["id"], lines, start)
        subscription |= {"metadata": dict(kept["metadata"]), "description": kept["description"]}
        if kept["trial_days"]:
            end = start + kept["trial_days"] * DAY_SECONDS
            subscription |= {"trial_start": start, "trial_end": end, "status": "trialing"}
            for item in subscription["items"]["data"]:
                item["current_period_end"] = end
        self._store.add(subscription)
        invoice = self.new_invoice(subscription, "subscription_create")
        session |= {
            "status": "complete",
            "url": None,
            "customer": customer["id"],
            "customer_details": {"email": customer["email"], "name": customer["name"], "phone": None},
            "subscription": subscription["id"],
            "invoice": invoice["id"],
        }
        return subscription

    def _customer(self, session: Json) -> Json:
        if session["customer"]:
            customer = self._store.get("customer", session["customer"], "customer")
            if customer.get("deleted"):
                raise StripeError(400, "The customer of this session was deleted.", code="resource_missing")
            return customer
        customer = self._store.add(customer_object(email=session["customer_email"]))
        self._events.emit("customer.created", customer)
        return customer

    def _open(self, session_id: str, done: str) -> Json:
        session = self.session(session_id)
        if session["status"] != "open":
            raise StripeError(
                400,
                f'Only Checkout Sessions with a status in ["open"] can be {done}.'
                f" This Session has a status of `{session['status']}`.",
            )
        return session

    def _unsettled(self, session_id: str) -> Json:
        session = self.session(session_id)
        if (session["status"], session["payment_status"]) != ("complete", "unpaid"):
            raise StripeError(400, "This Session waits for no payment.")
        subscription = self._store.get("subscription", session["subscription"])
        if subscription["status"] != "incomplete":
            raise StripeError(400, "The payment of this Session has already failed.")
        return session

    def _close(self, session: Json, status: str) -> None:
        session |= {"status": status, "url": None}
        self._events.emit(f"checkout.session.{status}", session)
