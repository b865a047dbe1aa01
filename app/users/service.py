"""Users: find, lock and write them. Mobile numbers: any international spelling in, E.164 out."""

import re
from datetime import datetime
from uuid import UUID

import phonenumbers
from phonenumbers import PhoneNumberType
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from app.core import settings
from app.core.auth import TokenRevoked
from app.core.crypto import keyed_hash
from app.core.db import db
from app.users.models import E164, User

LOCK = select(User).where(User.id == bindparam("user"), User.mobile.is_not(None)).with_for_update(key_share=True)
# What a person can hold. Premium-rate, shared-cost and company numbers, pagers, voicemails and the like cost the
# sender, and some pay a fraudster for every message that we send.
ALLOWED_NUMBER_TYPES = {
    PhoneNumberType.MOBILE,
    PhoneNumberType.FIXED_LINE,
    PhoneNumberType.FIXED_LINE_OR_MOBILE,
    PhoneNumberType.VOIP,
}


def find_user(user_id: UUID) -> User | None:
    """The user, unless the account is deleted."""
    user = db.session.get(User, user_id)
    return user if user is not None and user.mobile else None


def find_user_by_mobile(mobile: str) -> User | None:
    """The user with a number in E.164, verified or not."""
    return db.session.scalar(select(User).where(User.mobile == mobile))


def lock_user(user_id: UUID) -> User | None:
    """The user's row, locked until the transaction ends, so that one user's requests run one by one."""
    return db.session.scalar(LOCK, {"user": user_id}, execution_options={"populate_existing": True})


def lock_user_by_mobile(mobile: str) -> User | None:
    """As `lock_user`. While the row is locked, no other signup replaces an unverified user."""
    statement = select(User).where(User.mobile == mobile).with_for_update(key_share=True)
    return db.session.scalar(statement, execution_options={"populate_existing": True})


def free_number(mobile: str, now: datetime) -> bool:
    """Delete a user who never verified the number, so that another user may have it. Returns False if it is verified.

    Locks no verified owner: of two users who want each other's number, each would wait for the other. The caller holds
    the number's throttle, so nobody verifies it meanwhile.
    """
    owner = find_user_by_mobile(mobile)
    claim = None if owner and owner.verified_at else replace_unverified(mobile, name=None, now=now)
    if claim is None:
        return False
    db.session.execute(delete(User).where(User.id == claim.id))
    return True


def mark_deleted(user: User) -> None:
    """Clear the row's personal data: no query finds it any more, and the number is free at once."""
    statement = update(User).where(User.id == user.id)
    db.session.execute(statement.values(mobile=None, name=None, password_hash=None))


def replace_unverified(mobile: str, *, name: str | None, now: datetime) -> User | None:
    """Insert a user in place of one who never verified the number. Returns None if the number is verified.

    The earlier user's id is gone then. No row refers to it: to own anything takes a token, which an unverified user
    cannot have.
    """
    values = {"id": uuid7(), "name": name, "created_at": now}
    statement = (
        insert(User)
        .values(mobile=mobile, **values)
        .on_conflict_do_update(index_elements=[User.mobile], set_=values, where=User.verified_at.is_(None))
        .returning(User)
    )
    return db.session.scalar(statement)


def require_user(user_id: UUID) -> User:
    """The user as stored now. Raises TokenRevoked when the account is gone."""
    user = find_user(user_id)
    if user is None:
        raise TokenRevoked
    return user


def require_locked_user(user_id: UUID) -> User:
    """As `require_user`, with the row locked as by `lock_user`. Raises TokenRevoked."""
    user = lock_user(user_id)
    if user is None:
        raise TokenRevoked
    return user


def to_e164(spelling: str) -> str | None:
    """The number in E.164, or None when it has no country code or is no valid number.

    phonenumbers calls some German numbers valid that are longer or shorter than E.164 allows.
    """
    try:
        number = phonenumbers.parse(spelling)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number) or number.extension:
        return None
    mobile = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return mobile if re.fullmatch(E164, mobile) else None


def is_served(mobile: str) -> bool:
    """Whether ALLOWED_COUNTRY_CODES (regions like `DE`, calling codes like `49`) has the country of an E.164 number."""
    allowed = settings().allowed_country_codes
    number = phonenumbers.parse(mobile)
    return not allowed or bool({str(number.country_code), phonenumbers.region_code_for_number(number)} & {*allowed})


def is_personal_number(mobile: str) -> bool:
    """Whether a number in E.164 is of a type that a person can hold."""
    return phonenumbers.number_type(phonenumbers.parse(mobile)) in ALLOWED_NUMBER_TYPES


def mobile_key(mobile: str) -> str:
    """The number as a keyed hash, for counters that outlive the account."""
    return keyed_hash("mobile", mobile)
