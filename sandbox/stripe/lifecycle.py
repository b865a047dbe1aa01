"""What happens to a Checkout session (paid, paid late, expired) and to the subscription after it began.

https://docs.stripe.com/payments/checkout/fulfillment, https://docs.stripe.com/billing/subscriptions/webhooks and
https://docs.stripe.com/billing/subscriptions/overview
"""

from collections.abc import Callable

from sandbox.stripe.events import Events
from sandbox.stripe.objects import invoice_object, month_later, subscription_object
from sandbox.stripe.store import Json, Store, now
from sandbox.stripe.wire import StripeError, parameter_invalid

ENDED = ("canceled", "incomplete_expired")
STATUSES = ("active", "trialing", "past_due", "unpaid", "paused", "incomplete", *ENDED)


class Payments:
    """Actions on a Checkout session, by name. Call them with the store's lock held."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store, self._events = store, events
        self._actions: dict[str, Callable[[str], Json]] = {
            "pay": self.pay,
            "expire": self.expire,
            "pay_async": self.pay_async,
            "async_succeed": self.async_succeed,
            "async_fail": self.async_fail,
        }

    def act(self, session_id: str, action: str) -> Json:
        """Do an action. Returns the session. Raises StripeError for an action that is unknown or not possible now."""
        if action not in self._actions:
            raise parameter_invalid("action", f"Actions: decline, {', '.join(self._actions)}.")
        return self._actions[action](session_id)

    def session(self, session_id: str) -> Json:
        """Return the session, after expiring it if its time is up."""
        session = self._store.get("checkout.session", session_id)
        if session["status"] == "open" and session["expires_at"] <= now():
            self._expire(session)
        return session

    def expire(self, session_id: str) -> Json:
        """End an open session (https://docs.stripe.com/api/checkout/sessions/expire)."""
        session = self._open(session_id, "expired")
        self._expire(session)
        return session

    def pay(self, session_id: str) -> Json:
        """The customer pays: an active subscription, a paid invoice, a complete session."""
        session = self._open(session_id, "paid")
        subscription = self._subscribe(session)
        session["payment_status"] = "paid"
        self._events.emit("checkout.session.completed", session)
        self._events.emit("customer.subscription.created", subscription)
        self.settle(subscription, "active")
        return session

    def pay_async(self, session_id: str) -> Json:
        """The customer pays by a method that takes days: the session is complete but unpaid, and nothing is active."""
        session = self._open(session_id, "paid")
        subscription = self._subscribe(session)
        self._events.emit("checkout.session.completed", session)
        self._events.emit("customer.subscription.created", subscription)
        return session

    def async_succeed(self, session_id: str) -> Json:
        """The late payment arrived."""
        session = self._unsettled(session_id)
        session["payment_status"] = "paid"
        self._events.emit("checkout.session.async_payment_succeeded", session)
        self.settle(self._store.get("subscription", session["subscription"]), "active")
        return session

    def async_fail(self, session_id: str) -> Json:
        """The late payment failed: the subscription never starts."""
        session = self._unsettled(session_id)
        self._events.emit("checkout.session.async_payment_failed", session)
        subscription = self._store.get("subscription", session["subscription"])
        invoice = self._store.get("invoice", subscription["latest_invoice"])
        invoice |= {"attempt_count": 1, "status": "void"}
        self._events.emit("invoice.payment_failed", invoice)
        self._events.update(subscription, {"status": "incomplete_expired", "ended_at": now()})
        return session

    def settle(self, subscription: Json, status: str, before: Json | None = None) -> None:
        """Pay the subscription's latest invoice, if it is open, and give the subscription a status.

        before: the subscription's state in the last event; None for its current state.
        """
        invoice = self._store.table("invoice").get(subscription["latest_invoice"] or "")
        if invoice and invoice["status"] == "open":
            attempts = invoice["attempt_count"] + 1
            invoice |= {"status": "paid", "attempt_count": attempts, "amount_paid": invoice["amount_due"]}
            self._events.emit("invoice.paid", invoice)
            self._events.emit("invoice.payment_succeeded", invoice)
        self._events.update(subscription, {"status": status}, before)

    def new_invoice(self, subscription: Json, reason: str) -> Json:
        """Add an open invoice for the current period, which becomes the subscription's latest one."""
        invoice = self._store.add(invoice_object(subscription, reason))
        subscription["latest_invoice"] = invoice["id"]
        return invoice

    def _subscribe(self, session: Json) -> Json:
        customer = self._store.get("customer", session["customer"], "customer")
        if customer.get("deleted"):
            raise StripeError(400, "The customer of this session was deleted.", code="resource_missing")
        kept = self._store.table("line_items")[session["id"]]
        price, metadata = kept["data"][0]["price"], dict(kept["metadata"])
        subscription = self._store.add(subscription_object(customer["id"], price, now(), metadata))
        invoice = self.new_invoice(subscription, "subscription_create")
        session |= {
            "status": "complete",
            "url": None,
            "customer_details": {"email": customer["email"], "name": customer["name"], "phone": None},
            "subscription": subscription["id"],
            "invoice": invoice["id"],
        }
        return subscription

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
            raise StripeError(400, "This Session is not waiting for a payment.")
        subscription = self._store.get("subscription", session["subscription"])
        if subscription["status"] != "incomplete":
            raise StripeError(400, "The payment of this Session has already failed.")
        return session

    def _expire(self, session: Json) -> None:
        session |= {"status": "expired", "url": None}
        self._events.emit("checkout.session.expired", session)


class Lifecycle:
    """Actions on a subscription, by name. Call them with the store's lock held."""

    def __init__(self, store: Store, events: Events, payments: Payments) -> None:
        self._store, self._events, self._payments = store, events, payments
        self._actions: dict[str, Callable[[Json, Json], None]] = {
            "renew": self.renew,
            "fail_payment": self.fail_payment,
            "recover": self.recover,
            "cancel": self._end,
            "cancel_at_period_end": self.cancel_at_period_end,
            "resume": self.resume,
            "set": self.set_fields,
        }

    def act(self, subscription_id: str, action: str, options: Json) -> Json:
        """Do an action; options: `period_start`, `period_end` in Unix seconds, and for `set` also `status`.

        Raises StripeError for an unknown action and for a subscription that has ended (`set` may revive it).
        """
        subscription = self._store.get("subscription", subscription_id)
        if action not in self._actions:
            raise parameter_invalid("action", f"Actions: {', '.join(self._actions)}.")
        if subscription["status"] in ENDED and action != "set":
            raise StripeError(404, f"No such subscription: '{subscription_id}'", code="resource_missing")
        self._actions[action](subscription, options)
        return subscription

    def renew(self, subscription: Json, options: Json) -> None:
        """The period ends: the next one begins and is paid, or the subscription ends if that was scheduled."""
        if subscription["cancel_at"]:
            self._end(subscription)
            return
        start = options.get("period_start") or subscription["items"]["data"][0]["current_period_end"]
        before = self._next_period(subscription, start, options.get("period_end"))
        self._payments.settle(subscription, "active", before)

    def fail_payment(self, subscription: Json, options: Json) -> None:
        """The period ends now and the payment for the next one fails: the subscription is past due."""
        start = options.get("period_start") or now()
        before = self._next_period(subscription, start, options.get("period_end"))
        invoice = self._store.get("invoice", subscription["latest_invoice"])
        invoice["attempt_count"] = 1
        self._events.emit("invoice.payment_failed", invoice)
        self._events.update(subscription, {"status": "past_due"}, before)

    def recover(self, subscription: Json, _: Json) -> None:
        """The open invoice is paid after all."""
        self._payments.settle(subscription, "active")

    def cancel_at_period_end(self, subscription: Json, _: Json) -> None:
        """Schedule the end for the period's end, by `cancel_at` alone, as the portal does in flexible billing mode."""
        at = subscription["items"]["data"][0]["current_period_end"]
        self._events.update(subscription, {"cancel_at": at, "canceled_at": now()})

    def resume(self, subscription: Json, _: Json) -> None:
        """Withdraw the cancellation that was scheduled for the end of the period."""
        self._events.update(subscription, {"cancel_at": None, "canceled_at": None})

    def set_fields(self, subscription: Json, options: Json) -> None:
        """Set any status and any period, without the steps that lead there."""
        status = options.get("status", subscription["status"])
        if status not in STATUSES:
            raise parameter_invalid("status", f"Statuses: {', '.join(STATUSES)}.")
        before = dict(subscription)
        self._set_period(subscription, options.get("period_start"), options.get("period_end"))
        if status == "canceled":
            self._end(subscription)
            return
        ended_at = now() if status in ENDED else None
        self._events.update(subscription, {"status": status, "ended_at": ended_at}, before)

    def _end(self, subscription: Json, _: Json | None = None) -> None:
        """End at once."""
        canceled_at = subscription["canceled_at"] or now()
        subscription |= {"status": "canceled", "canceled_at": canceled_at, "ended_at": now()}
        self._events.emit("customer.subscription.deleted", subscription)

    def _next_period(self, subscription: Json, start: int, end: int | None) -> Json:
        before = dict(subscription)
        self._set_period(subscription, start, end)
        self._payments.new_invoice(subscription, "subscription_cycle")
        return before

    def _set_period(self, subscription: Json, start: int | None, end: int | None) -> None:
        [item] = subscription["items"]["data"]
        if start is not None:
            item = item | {"current_period_start": start, "current_period_end": month_later(start)}
        if end is not None:
            item = item | {"current_period_end": end}
        subscription["items"] = subscription["items"] | {"data": [item]}
