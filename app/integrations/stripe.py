"""Stripe, through its own SDK, which only this module imports. It uses no database, and has exceptions of its own.

Here are the parts of Stripe's objects that this product needs, the calls that it makes, and the events it receives.
Sources: https://docs.stripe.com/api/subscriptions/object, https://docs.stripe.com/api/checkout/sessions/object,
https://docs.stripe.com/api/events/object

A call has short time-outs, and the SDK retries it once, also after a read time-out. In addition, all calls inside one
`BoundedCall` share a time limit, whatever they wait for. The key is in no message and no log: an error shows only its
type, status, code and parameter, and Stripe's request id.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar

import requests
import stripe

from app.integrations.bounded_calls import BoundedAdapter

ENDED = frozenset({"canceled", "incomplete_expired"})  # final statuses


@dataclass(frozen=True)
class RemoteItem:
    """An item of a subscription. Each has a price and a billing period of its own."""

    price_id: str
    current_period_start: datetime | None
    current_period_end: datetime | None


@dataclass(frozen=True)
class RemoteSubscription:
    """A subscription as Stripe described it. Times are aware, in UTC."""

    id: str
    status: str
    items: tuple[RemoteItem, ...]
    cancel_at_period_end: bool
    created_at: datetime
    ended_at: datetime | None

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class RemoteSession:
    """A Checkout session. `status` is open, complete or expired; `url` is set while it is open.

    `payment_status` is `unpaid` until the money arrives, which may take days after the session is complete.
    """

    id: str
    status: str
    payment_status: str
    url: str | None
    expires_at: datetime


@dataclass(frozen=True)
class RemoteEvent:
    """An event that Stripe signed: its type, and Stripe's id of the customer that it is about.

    `subscription_id`: see `StripeEvent`.
    """

    id: str
    type: str
    customer_id: str | None
    subscription_id: str | None


def parse_subscription(source: Any) -> RemoteSubscription:
    """Convert the SDK's object.

    In flexible billing mode a cancellation requested in the portal shows only in `cancel_at`
    (https://docs.stripe.com/billing/subscriptions/billing-mode/compare). A date after the period does not count as one.
    """
    data = source.to_dict()
    items = (data.get("items") or {}).get("data") or []
    cancel_at = data.get("cancel_at")
    last_end = max((item["current_period_end"] or 0 for item in items), default=cancel_at)
    return RemoteSubscription(
        id=data["id"],
        status=data["status"],
        items=tuple(
            RemoteItem(
                item["price"]["id"], utc_time(item["current_period_start"]), utc_time(item["current_period_end"])
            )
            for item in items
        ),
        cancel_at_period_end=bool(data.get("cancel_at_period_end") or (cancel_at and cancel_at <= last_end)),
        created_at=datetime.fromtimestamp(data["created"], UTC),
        ended_at=utc_time(data.get("ended_at")),
    )


def parse_session(source: Any) -> RemoteSession:
    """Convert the SDK's object."""
    data = source.to_dict()
    return RemoteSession(
        id=data["id"],
        status=data["status"],
        payment_status=data["payment_status"],
        url=data.get("url"),
        expires_at=datetime.fromtimestamp(data["expires_at"], UTC),
    )


def id_of(value: Any) -> str | None:
    """Return the id in a field that holds an id or the expanded object. Returns None if it cannot be an id."""
    found = value.get("id") if isinstance(value, dict) else value
    return found if isinstance(found, str) and ID.fullmatch(found) else None


def utc_time(timestamp: int | None) -> datetime | None:
    """Convert Unix seconds to a time."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


class PaymentsError(Exception):
    """A call to Stripe failed, or an event was rejected. The message is for the log."""


class PaymentsUnavailable(PaymentsError):
    """Stripe cannot be reached, is too slow, or refuses for now: the same call may succeed later."""


class PaymentsRejected(PaymentsError):
    """Stripe refuses the call."""


class MissingAtStripe(PaymentsRejected):
    """Stripe does not know an object that the call names; `param` is the parameter that names it, if Stripe says so."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.param = param


class PaymentsFailed(PaymentsUnavailable):
    """Stripe failed (5xx). It may repeat this answer for the call's idempotency key."""


class EventRejected(PaymentsError):
    """The webhook's body is not an event that Stripe signed for us just now."""


class KeyInUse(PaymentsUnavailable):
    """Another request with the same idempotency key is in flight."""


CONNECT_SECONDS, READ_SECONDS = 2, 8
MAX_RETRIES = 1
CONNECTIONS = 64  # kept open to Stripe at most
PAGE_SIZE = 100  # Stripe's maximum: https://docs.stripe.com/api/pagination
IN_USE_PAUSE_SECONDS = 0.2
EVENT_WORD = re.compile(r"[A-Za-z0-9_.]{1,100}")  # an event's id or type
ID = re.compile(r"[!-~]{1,255}")  # of an object, as long as Stripe promises: https://docs.stripe.com/upgrades
TOLERANCE_SECONDS = 300  # https://docs.stripe.com/webhooks: an event's signature is at most five minutes old

Result = TypeVar("Result")


class Payments:
    """A connection to Stripe; safe to share between threads."""

    def __init__(self, secret_key: str, api_base: str) -> None:
        session = requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, BoundedAdapter(pool_connections=2, pool_maxsize=CONNECTIONS))
        self._stripe = stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base.rstrip("/")},
            max_network_retries=MAX_RETRIES,
            http_client=stripe.RequestsClient(timeout=(CONNECT_SECONDS, READ_SECONDS), session=session),
        )

    def create_customer(self, *, user_id: str, key: str) -> str:
        """Create a customer and return its id. A used idempotency key returns the customer that was created with it."""
        return create_idempotently(self._stripe.v1.customers.create, {"metadata": {"user_id": user_id}}, key).id

    def is_deleted(self, customer_id: str) -> bool:
        """Return whether the customer was deleted. Returns False if it never existed."""
        with suppress(MissingAtStripe):
            return bool(call(lambda: self._stripe.v1.customers.retrieve(customer_id)).to_dict().get("deleted"))
        return False

    def create_session(
        self, *, customer_id: str, user_id: str, price_id: str, success_url: str, cancel_url: str, key: str
    ) -> RemoteSession:
        """Open a Checkout session for a subscription. A used idempotency key returns the session created with it."""
        params: Any = {
            "mode": "subscription",
            "customer": customer_id,
            "client_reference_id": user_id,
            "line_items": [{"price": price_id, "quantity": 1}],
            "metadata": {"user_id": user_id},
            "subscription_data": {"metadata": {"user_id": user_id}},
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        return parse_session(create_idempotently(self._stripe.v1.checkout.sessions.create, params, key))

    def session(self, session_id: str) -> RemoteSession | None:
        """Return the session as it is now, or None if Stripe does not know it."""
        try:
            return parse_session(call(lambda: self._stripe.v1.checkout.sessions.retrieve(session_id)))
        except MissingAtStripe:
            return None

    def open_sessions(self, customer_id: str) -> list[RemoteSession]:
        """Return the customer's open Checkout sessions."""
        return self._sessions({"customer": customer_id, "status": "open", "limit": PAGE_SIZE})

    def awaits_payment(self, subscription_id: str) -> bool:
        """Return whether the subscription was bought in a Checkout session whose payment has not arrived yet."""
        sessions = self._sessions({"subscription": subscription_id})
        return any((one.status, one.payment_status) == ("complete", "unpaid") for one in sessions)

    def _sessions(self, params: Any) -> list[RemoteSession]:
        page = call(lambda: self._stripe.v1.checkout.sessions.list(params))
        return [parse_session(session) for session in page.data]

    def expire_session(self, session_id: str) -> None:
        """End a session. One that has already ended stays as it is."""
        try:
            call(lambda: self._stripe.v1.checkout.sessions.expire(session_id))
        except PaymentsRejected:
            session = self.session(session_id)
            if session is None or session.status == "open":
                raise

    def subscriptions(self, customer_id: str) -> list[RemoteSubscription]:
        """Return every subscription of the customer, including those that have ended."""
        params: Any = {"customer": customer_id, "status": "all", "limit": PAGE_SIZE}
        listed = call(lambda: list(self._stripe.v1.subscriptions.list(params).auto_paging_iter()))
        return [parse_subscription(subscription) for subscription in listed]

    def cancel_subscription(self, subscription_id: str) -> None:
        """Cancel at once. A subscription that has already ended, which Stripe calls missing, stays as it is."""
        with suppress(MissingAtStripe):
            call(lambda: self._stripe.v1.subscriptions.cancel(subscription_id))

    def portal_url(self, customer_id: str, *, return_url: str) -> str:
        """Return the address where the customer manages the subscription. It is valid for a few minutes."""
        params: Any = {"customer": customer_id, "return_url": return_url}
        return str(call(lambda: self._stripe.v1.billing_portal.sessions.create(params)).url)


def parse_event(body: bytes, signature: str, secret: str, *, now_seconds: float) -> RemoteEvent:
    """Return the event in a webhook's body, once the SDK has checked its signature and age.

    Raises EventRejected for any other body or header. The SDK accepts a time in the future, which would keep a
    signature valid for long, so it is rejected here.
    """
    try:
        event = stripe.Webhook.construct_event(body, signature, secret, TOLERANCE_SECONDS).to_dict()
        signed_at = next(int(part.split("=", 2)[1]) for part in signature.split(",") if part.split("=", 2)[0] == "t")
    except (stripe.SignatureVerificationError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as e:
        raise EventRejected(type(e).__name__) from None
    if signed_at > now_seconds + TOLERANCE_SECONDS:
        raise EventRejected("signed in the future")
    if not all(isinstance(event.get(name), str) and EVENT_WORD.fullmatch(event[name]) for name in ("id", "type")):
        raise EventRejected("not an event")
    data = event.get("data")
    item = data.get("object") if isinstance(data, dict) else None
    if not isinstance(item, dict):
        raise EventRejected("an event without an object")
    customer_id = id_of(item if item.get("object") == "customer" else item.get("customer"))
    subscription_id = id_of(item if item.get("object") == "subscription" else item.get("subscription"))
    return RemoteEvent(event["id"], event["type"], customer_id, subscription_id)


def create_idempotently(create: Callable[[Any, Any], Result], params: Any, key: str) -> Result:
    """Create something under an idempotency key. While another request with this key is in flight, wait and retry.

    The surrounding `BoundedCall` ends the wait: once its time is over, the next call fails. Raises a PaymentsError.
    """
    while True:
        with suppress(KeyInUse):
            return call(lambda: create(params, {"idempotency_key": key}))
        time.sleep(IN_USE_PAUSE_SECONDS)


def call(work: Callable[[], Result]) -> Result:
    """Make one call. Raises a PaymentsError."""
    try:
        return work()
    except stripe.StripeError as error:
        raise payments_error(error) from None  # the SDK's error carries the whole answer


def payments_error(error: stripe.StripeError) -> PaymentsError:
    """Translate an error of the SDK into one of ours."""
    status = error.http_status
    answer = f" HTTP {status} {error.code or '-'} {error.request_id or '-'}" if status else ""
    facts = type(error).__name__ + answer
    if status in {None, HTTPStatus.TOO_MANY_REQUESTS} or isinstance(error, stripe.APIConnectionError):
        return PaymentsUnavailable(facts)
    if status == HTTPStatus.CONFLICT:
        return KeyInUse(facts)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return PaymentsFailed(facts)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return PaymentsRejected(f"{facts}: Stripe refuses STRIPE_SECRET_KEY")
    param = getattr(error, "param", None)
    message = f"{facts} {param or ''}".strip()
    return MissingAtStripe(message, param) if error.code == "resource_missing" else PaymentsRejected(message)
