"""What can come of a call to Stripe: what this product wants to know of an object, or an error.

Sources: https://docs.stripe.com/api/subscriptions/object, https://docs.stripe.com/api/checkout/sessions/object
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ENDED = frozenset({"canceled", "incomplete_expired"})  # nothing follows on these


@dataclass(frozen=True)
class RemoteSubscription:
    """A subscription as Stripe said it is; times aware, in UTC."""

    id: str
    customer_id: str
    status: str
    price_ids: tuple[str, ...]
    period_start: datetime | None
    period_end: datetime | None
    cancel_at_period_end: bool
    created_at: datetime
    ended_at: datetime | None

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class RemoteSession:
    """A Checkout session; `status` is open, complete or expired; `url` is there while it is open.

    `payment_status` is `unpaid` until the money is there, which of a complete one may take days.
    """

    id: str
    status: str
    payment_status: str
    url: str | None
    expires_at: datetime
    subscription_id: str | None


def read_subscription(source: Any) -> RemoteSubscription:
    """From the SDK's object. The billing period sits on the items.

    A cancellation that was asked for in the portal of a subscription in flexible billing mode shows in
    `cancel_at` alone (https://docs.stripe.com/billing/subscriptions/billing-mode/compare).
    """
    data = source.to_dict()
    items = (data.get("items") or {}).get("data") or []
    starts = [item["current_period_start"] for item in items]
    ends = [item["current_period_end"] for item in items]
    return RemoteSubscription(
        id=data["id"],
        customer_id=id_of(data["customer"]) or "",
        status=data["status"],
        price_ids=tuple(item["price"]["id"] for item in items),
        period_start=moment(min(starts, default=None)),
        period_end=moment(max(ends, default=None)),
        cancel_at_period_end=bool(data.get("cancel_at_period_end") or data.get("cancel_at")),
        created_at=datetime.fromtimestamp(data["created"], UTC),
        ended_at=moment(data.get("ended_at")),
    )


def read_session(source: Any) -> RemoteSession:
    """From the SDK's object."""
    data = source.to_dict()
    return RemoteSession(
        id=data["id"],
        status=data["status"],
        payment_status=data["payment_status"],
        url=data.get("url"),
        expires_at=datetime.fromtimestamp(data["expires_at"], UTC),
        subscription_id=id_of(data.get("subscription")),
    )


def id_of(value: Any) -> str | None:
    """The id in a field that holds an id or, expanded, the object itself."""
    found = value.get("id") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def moment(timestamp: int | None) -> datetime | None:
    """Unix seconds as a time."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


class PaymentsError(Exception):
    """A call to Stripe did not give what was asked for; the message is for the log."""


class PaymentsUnavailable(PaymentsError):
    """Stripe does not answer, not in time, or not now: the same call may succeed later."""


class PaymentsRejected(PaymentsError):
    """Stripe refuses the call; `missing` names the parameter whose object does not exist there, if that is why."""

    def __init__(self, message: str, *, missing: str | None = None) -> None:
        super().__init__(message)
        self.missing = missing


class PaymentsFailed(PaymentsUnavailable):
    """Stripe's own failure (5xx): it may keep this answer under the idempotency key of the call."""


class EventRejected(PaymentsError):
    """The webhook's body is not an event that Stripe signed for us just now."""


class KeyInUse(PaymentsUnavailable):
    """The same call is under way elsewhere."""
