"""Signing up, logging in, and moving an account to another number.

A number is changed against two proofs: the new number's code, and the password or the current number's code. The codes
are good for this user and this pair of numbers only. Nobody learns whether the new number is taken without its code.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.auth import events
from app.auth.errors import AccountExists, InvalidCredentials, OtpInvalid
from app.auth.models import EventType, OneTimeCode, Purpose
from app.auth.otp import COOLDOWN, LIFETIME, issue_code, mark_used, match_code, proven_user
from app.auth.passwords import require_password
from app.auth.sessions import Tokens, lock_session, open_session, revoke_sessions
from app.auth.throttles import CODES_BUDGET, WRONG_CODES_BUDGET, lock_throttle
from app.billing.models import Tier
from app.core.errors import ValidationFailed
from app.core.http import Client
from app.core.logging import log_event
from app.core.transactions import release_connection, transaction
from app.quota.ledger import move_charges
from app.users import service as users
from app.users.models import User
from app.users.service import mobile_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentCode:
    """A code that was sent. `otp`: the code, `current_otp`: the current number's; None unless OTP_DELIVERY=response."""

    mobile: str
    otp: str | None
    current_otp: str | None = None
    expires_in: int = int(LIFETIME.total_seconds())
    resend_in: int = int(COOLDOWN.total_seconds())


def sign_up(mobile: str, *, name: str | None, now: datetime) -> User:
    """Claim a number. The account works only once a code has verified the number.

    mobile: E.164. An earlier claim that was never verified is replaced.
    Raises AccountExists when the number is already verified.
    """
    with transaction():
        user = users.replace_unverified(mobile, name=name, now=now)
        if user is None:
            raise AccountExists
        user.tier = Tier.BASIC  # nobody buys Pro without a token
        return user


def send_code(mobile: str, purpose: Purpose, *, now: datetime) -> SentCode:
    """Issue and deliver a code, in the same way for known and unknown numbers. mobile: E.164.

    Raises OtpLocked, OtpCooldown, ServiceUnavailable.
    """
    with CODES_BUDGET.spend(), transaction() as tx:
        otp = issue_code(tx, mobile, purpose, now)
    return SentCode(mobile, otp=otp)


def verify_login_code(mobile: str, code: str, client: Client, *, now: datetime) -> Tokens:
    """Exchange a code for tokens; the first one verifies the number. Raises what `proven_user` does."""
    with proven_user(mobile, Purpose.LOGIN, code, client, now) as (tx, user):
        events.record_login(user.id, client, now)
        return open_session(tx, user, client, now)


def log_in(mobile: str, password: str, client: Client, *, now: datetime) -> Tokens:
    """Exchange a password for tokens. A refusal takes as long without an account or a password as with a wrong one.

    Raises InvalidCredentials, RateLimited, ServiceUnavailable.
    """
    user = users.find_user_by_mobile(mobile)
    known_hash = user.password_hash if user is not None else None
    require_password(mobile, known_hash, password, now, when_wrong=InvalidCredentials)
    with transaction() as tx:
        user = users.lock_user_by_mobile(mobile)
        if user is None or user.password_hash != known_hash:  # changed or deleted while it was compared
            raise InvalidCredentials
        events.record_login(user.id, client, now)
        return open_session(tx, user, client, now)


def send_change_codes(user_id: UUID, new_mobile: str, *, now: datetime) -> SentCode:
    """Send a code to the new number and one to the current number, whether or not the new one is taken.

    new_mobile: E.164. Raises TokenRevoked, ValidationFailed, OtpLocked, OtpCooldown, ServiceUnavailable; then no code
    was sent.
    """
    before = user_before_change(user_id, new_mobile)
    purposes = {new_mobile: Purpose.NEW_MOBILE, before.mobile: Purpose.CURRENT_MOBILE}
    otps = {}
    with CODES_BUDGET.spend(), CODES_BUDGET.spend(), transaction() as tx:
        for mobile in in_lock_order(purposes):
            otps[mobile] = issue_code(tx, mobile, purposes[mobile], now, bound_to=binding(before, new_mobile))
    return SentCode(new_mobile, otp=otps[new_mobile], current_otp=otps[before.mobile])


def change_mobile(
    user_id: UUID,
    session_id: UUID,
    *,
    new_mobile: str,
    otp: str,
    current_password: str | None,
    current_otp: str | None,
    client: Client,
    now: datetime,
) -> Tokens:
    """Give the user the new number and begin a new session; every earlier token stops working.

    The day's charges are copied to the new number; everything else belongs to the user's id.
    session_id: the session of the request, which must still be active once the proofs are compared. new_mobile: E.164.
    otp: its code. current_password, current_otp: one of them, the other is None. Codes are used up only if all proofs
    are right. Raises ValidationFailed, WrongPassword, RateLimited, OtpInvalid, OtpLocked,
    TokenRevoked, ServiceUnavailable, AccountExists (the proofs were right, and the codes are used up).
    """
    before = user_before_change(user_id, new_mobile)
    codes = {new_mobile: (Purpose.NEW_MOBILE, otp)}
    if current_otp is not None:
        codes[before.mobile] = (Purpose.CURRENT_MOBILE, current_otp)
    else:
        require_password(before.mobile, before.password_hash, current_password or "", now)
    with WRONG_CODES_BUDGET.spend():
        with transaction() as tx:
            matched = match_codes(codes, binding(before, new_mobile), client, now)
            all_match = len(matched) == len(codes)
            if all_match:
                for row in matched:
                    mark_used(row, now)
                user = users.require_locked_user(user_id)
                lock_session(session_id, user_id)  # it has ended if the number or the password was changed meanwhile
                if users.free_number(new_mobile, now):
                    revoke_sessions(tx, user_id, now)
                    user.mobile = new_mobile  # not earlier: who ends a session locks that, then needs the user's key
                    events.record(user_id, EventType.MOBILE_CHANGED, client, now)
                    move_charges(mobile_key(before.mobile), mobile_key(new_mobile), now)
                    tx.after_commit(lambda: log_event(log, "mobile_changed", user_id=user_id))
                    return open_session(tx, user, client, now)
        raise AccountExists if all_match else OtpInvalid


def match_codes(
    codes: dict[str, tuple[Purpose, str]], bound_to: str, client: Client, now: datetime
) -> list[OneTimeCode]:
    """The rows of the codes that are right. Locks the numbers' throttles. Raises OtpLocked.

    Checks both throttles before either code: OtpLocked rolls the transaction back, and no counted guess may get lost.
    """
    mobiles = in_lock_order(codes)
    for mobile in mobiles:
        lock_throttle(mobile_key(mobile), now)
    rows = [match_code(mobile, *codes[mobile], client, now, bound_to=bound_to) for mobile in mobiles]
    return [row for row in rows if row is not None]


def user_before_change(user_id: UUID, new_mobile: str) -> User:
    """Return the user as the change finds it. The object is detached, so it keeps the current number and password.

    Raises TokenRevoked, ValidationFailed. Holds no connection afterwards: what follows may wait for Redis.
    """
    user = users.require_user(user_id)
    release_connection()
    if user.mobile == new_mobile:
        raise ValidationFailed({"new_mobile": ["This is already your number."]})
    return user


def binding(before: User, new_mobile: str) -> str:
    """What the codes of a change are bound to: the user, and the pair of numbers."""
    return f"{before.id} {before.mobile} {new_mobile}"


def in_lock_order(mobiles: Iterable[str]) -> list[str]:
    """The numbers in the order in which every request locks their throttles, so that no two wait for each other."""
    return sorted(mobiles, key=mobile_key)
