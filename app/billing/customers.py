"""Reading and writing the customers that users have at Stripe."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import exists, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from app.billing.models import StripeCustomer, Subscription
from app.core.db import db
from app.core.ids import new_id
from app.integrations.stripe import ENDED

NO_SYNC = {"synchronize_session": False}


def find_customer(stripe_id: str) -> StripeCustomer | None:
    """The customer with an id of Stripe's, fresh from the database."""
    statement = select(StripeCustomer).where(StripeCustomer.stripe_id == stripe_id)
    return db.session.scalar(statement, execution_options={"populate_existing": True})


def ensure_customer(user_id: UUID, now: datetime) -> StripeCustomer:
    """The user's customer, fresh from the database, made on the first call; at Stripe it need not exist yet.

    One that was deleted at Stripe does not count.
    """
    row = {"id": new_id(), "user_id": user_id, "attempt": 1, "created_at": now, "checked_at": now}
    db.session.execute(insert(StripeCustomer).values(row).on_conflict_do_nothing())
    statement = select(StripeCustomer).where(StripeCustomer.user_id == user_id, StripeCustomer.deleted_at.is_(None))
    return db.session.scalars(statement, execution_options={"populate_existing": True}).one()


def set_stripe_id(customer_id: UUID, stripe_id: str) -> None:
    """Keep the customer's id at Stripe, unless somebody else did so first."""
    free = (StripeCustomer.id == customer_id, StripeCustomer.stripe_id.is_(None))
    db.session.execute(update(StripeCustomer).where(*free).values(stripe_id=stripe_id))


def set_session(customer_id: UUID, attempt: int, session_id: str, expires_at: datetime) -> bool:
    """Keep the session opened by this attempt; False when the attempt is over, or the user gone."""
    current = (
        StripeCustomer.id == customer_id,
        StripeCustomer.user_id.is_not(None),
        StripeCustomer.attempt == attempt,
        or_(StripeCustomer.session_id.is_(None), StripeCustomer.session_id == session_id),
    )
    statement = update(StripeCustomer).where(*current).values(session_id=session_id, session_expires_at=expires_at)
    return db.session.execute(statement.returning(StripeCustomer.id)).first() is not None


def begin_attempt(customer: StripeCustomer) -> None:
    """Let the customer's next attempt begin, unless it did since the row was read, or has another session by now."""
    current = (
        StripeCustomer.id == customer.id,
        StripeCustomer.attempt == customer.attempt,
        StripeCustomer.session_id.is_not_distinct_from(customer.session_id),
    )
    values = {"attempt": customer.attempt + 1, "session_id": None, "session_expires_at": None}
    db.session.execute(update(StripeCustomer).where(*current).values(values))


def forget_customer(customer_id: UUID, now: datetime) -> None:
    """Stripe does not know the customer (any more): the user's next one is a new one."""
    current = (StripeCustomer.id == customer_id, StripeCustomer.deleted_at.is_(None))
    db.session.execute(update(StripeCustomer).where(*current).values(deleted_at=now))


def customers_to_check(now: datetime, at_most: int, *, session_patience: timedelta) -> list[StripeCustomer]:
    """Customers with something that can still change, those not compared for the longest time first."""
    unended = exists().where(Subscription.customer_id == StripeCustomer.id, Subscription.status.not_in(ENDED))
    recent_session = StripeCustomer.session_expires_at > now - session_patience
    due = select(StripeCustomer).where(StripeCustomer.stripe_id.is_not(None), or_(unended, recent_session))
    return list(db.session.scalars(due.order_by(StripeCustomer.checked_at, StripeCustomer.id).limit(at_most)))


def claim_to_check(customer: StripeCustomer, now: datetime) -> bool:
    """Mark a customer as compared at `now`; False when somebody else did since the row was read."""
    unchanged = (StripeCustomer.id == customer.id, StripeCustomer.checked_at == customer.checked_at)
    statement = update(StripeCustomer).where(*unchanged).values(checked_at=now).returning(StripeCustomer.id)
    return db.session.execute(statement, execution_options=NO_SYNC).first() is not None


def customers_at_stripe(user_id: UUID | None) -> list[StripeCustomer]:
    """Every customer that has an id at Stripe, or those of one user."""
    statement = select(StripeCustomer).where(StripeCustomer.stripe_id.is_not(None)).order_by(StripeCustomer.id)
    return list(
        db.session.scalars(statement if user_id is None else statement.where(StripeCustomer.user_id == user_id))
    )


def customers_to_close(user_id: UUID) -> list[StripeCustomer]:
    """The user's customers at Stripe that were not deleted there."""
    existing = (StripeCustomer.user_id == user_id, StripeCustomer.stripe_id.is_not(None))
    return list(db.session.scalars(select(StripeCustomer).where(*existing, StripeCustomer.deleted_at.is_(None))))


def disown_customers(user_id: UUID) -> None:
    """Detach the customers from their user: what is paid for from now on is cancelled."""
    db.session.execute(update(StripeCustomer).where(StripeCustomer.user_id == user_id).values(user_id=None))


def has_session(user_id: UUID) -> bool:
    """Whether a Checkout session was opened since `close_account`; ask in the transaction that deletes the user.

    None can be kept before that transaction ends, nor afterwards, when `disown_customers` was called in it as well.
    """
    existing = (StripeCustomer.user_id == user_id, StripeCustomer.deleted_at.is_(None))
    return any(db.session.scalars(select(StripeCustomer.session_id).where(*existing).with_for_update()))
