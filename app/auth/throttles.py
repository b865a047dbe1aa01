"""Counters for each number, known or not, in PostgreSQL: exact under concurrency, and nothing lifts them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, func, or_, update
from sqlalchemy.dialects.postgresql import insert

from app.auth.errors import OtpLocked
from app.auth.models import NumberThrottle
from app.core.clock import seconds_until
from app.core.database import db
from app.core.errors import RateLimited, ServiceUnavailable
from app.core.transactions import transaction

WRONG_CODES_WINDOW = timedelta(hours=1)
MAX_WRONG_CODES = 10  # of a million: even for a year without a pause, under nine in a hundred
PASSWORD_WINDOW = timedelta(minutes=15)
MAX_PASSWORD_TRIES = 10  # NIST SP 800-63B-4, 3.2.2, allows a hundred in a row; a person needs a few


def lock_throttle(mobile_key: str, now: datetime) -> NumberThrottle:
    """The number's row, made when it is new, held until the transaction ends. Raises OtpLocked."""
    over = or_(NumberThrottle.wrong_codes == 0, NumberThrottle.wrong_codes_since <= now - WRONG_CODES_WINDOW)
    throttle = touch(
        mobile_key,
        now,
        wrong_codes=case((over, 0), else_=NumberThrottle.wrong_codes),
        wrong_codes_since=case((over, now), else_=NumberThrottle.wrong_codes_since),
    )
    if throttle.wrong_codes >= MAX_WRONG_CODES:
        raise OtpLocked(retry_after=seconds_until(throttle.wrong_codes_since + WRONG_CODES_WINDOW, now))
    return throttle


def take_password_try(mobile_key: str, now: datetime) -> datetime:
    """Count a password before it is looked at, so that parallel guesses do not slip through.

    Within the caller's transaction, which must commit. Returns when the window began that it counts in.
    Raises RateLimited.
    """
    over = or_(NumberThrottle.password_tries == 0, NumberThrottle.password_tries_since <= now - PASSWORD_WINDOW)
    throttle = touch(
        mobile_key,
        now,
        password_tries=case((over, 1), else_=func.least(NumberThrottle.password_tries, MAX_PASSWORD_TRIES) + 1),
        password_tries_since=case((over, now), else_=NumberThrottle.password_tries_since),
    )
    if throttle.password_tries > MAX_PASSWORD_TRIES:
        raise RateLimited(retry_after=seconds_until(throttle.password_tries_since + PASSWORD_WINDOW, now))
    return throttle.password_tries_since


def give_password_try_back(mobile_key: str, since: datetime) -> None:
    """It was no guess: the password was right, or nobody looked at it.

    since: what `take_password_try` returned; a window that began later owes nothing.
    """
    taken_from = (NumberThrottle.mobile_key == mobile_key, NumberThrottle.password_tries_since == since)
    fewer = func.greatest(NumberThrottle.password_tries - 1, 0)
    db.session.execute(
        update(NumberThrottle).where(*taken_from).values(password_tries=fewer),
        execution_options={"synchronize_session": False},
    )


@contextmanager
def given_back_when_busy(mobile_key: str, since: datetime) -> Iterator[None]:
    """Give the try back when the block ends in ServiceUnavailable: a flood of logins must not lock anybody out."""
    try:
        yield
    except ServiceUnavailable:
        with transaction():
            give_password_try_back(mobile_key, since)
        raise


def touch(mobile_key: str, now: datetime, **changes: Any) -> NumberThrottle:
    """Insert the number's row, or change it as told; either way it is locked and fresh."""
    first = {
        "mobile_key": mobile_key,
        "wrong_codes": 0,
        "wrong_codes_since": now,
        "password_tries": 1 if "password_tries" in changes else 0,
        "password_tries_since": now,
        "touched_at": now,
    }
    statement = (
        insert(NumberThrottle)
        .values(first)
        .on_conflict_do_update(index_elements=[NumberThrottle.mobile_key], set_=changes | {"touched_at": now})
        .returning(NumberThrottle)
    )
    return db.session.scalars(statement, execution_options={"populate_existing": True}).one()
