"""The tables behind a user's tier."""

import enum
from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, Sequence, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Model, RowId, db


class Tier(enum.StrEnum):
    """What a user may do in a day."""

    BASIC = "basic"
    PRO = "pro"


class ProGrant(Model):
    """Pro given by hand, whatever Stripe says."""

    __tablename__ = "pro_grants"

    id: Mapped[RowId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    reason: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class StripeCustomer(Model):
    """A user's customer at Stripe, and the Checkout session that was opened last.

    Outlives the user, so that a subscription that is paid for after the account is gone is found and canceled.
    `attempt` is a part of the idempotency keys: Stripe keeps an error under its key for a day.
    """

    __tablename__ = "stripe_customers"
    __table_args__ = (
        Index(
            "uq_stripe_customers_user_id",
            "user_id",
            unique=True,
            postgresql_where="user_id IS NOT NULL AND deleted_at IS NULL",
        ),
        Index("ix_stripe_customers_user_id", "user_id"),
        Index("ix_stripe_customers_checked_at", "checked_at"),
    )

    id: Mapped[RowId]
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    stripe_id: Mapped[str | None] = mapped_column(String(255), unique=True)
    attempt: Mapped[int] = mapped_column(default=1, server_default="1")
    session_id: Mapped[str | None] = mapped_column(String(255))
    session_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    checked_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class Subscription(Model):
    """Our copy of what Stripe last said about a subscription.

    `ticket` fences the copy: it was taken before Stripe was asked, and a lower one never overwrites a higher one.
    `past_due_since` is the start of the first period that is owed, while the status is `past_due`.
    """

    __tablename__ = "subscriptions"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("stripe_customers.id"), index=True)
    status: Mapped[str] = mapped_column(String(32))
    price_id: Mapped[str | None] = mapped_column(String(255))
    current_period_start: Mapped[datetime | None]
    current_period_end: Mapped[datetime | None]
    cancel_at_period_end: Mapped[bool]
    past_due_since: Mapped[datetime | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    ticket: Mapped[int] = mapped_column(BigInteger)
    fetched_at: Mapped[datetime]


class StripeEvent(Model):
    """An event that Stripe sent: noted when it arrives, applied by a task.

    `due_at` is when the sweep applies it, unless its task has done so by then; null once it is applied. `customer_id`
    says whom it is about. Applying it fetches that customer's subscriptions, unless the customer was deleted.
    """

    __tablename__ = "stripe_events"
    __table_args__ = (Index("ix_stripe_events_due_at", "due_at", postgresql_where="due_at IS NOT NULL"),)

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    type: Mapped[str] = mapped_column(String(100))
    customer_id: Mapped[UUID] = mapped_column(  # null only in rows from before migration 0009, which are never due
        ForeignKey("stripe_customers.id"), nullable=True
    )
    # Written only for the previous release, which fetches nothing where it is null. Most invoices leave it null: an
    # event of the subscription reports the same change. The next release stops writing it.
    subscription_id: Mapped[str | None] = mapped_column(String(255))
    received_at: Mapped[datetime] = mapped_column(index=True)
    due_at: Mapped[datetime | None]


FETCH_TICKETS = Sequence("stripe_fetch_tickets", data_type=BigInteger, metadata=db.metadata)
