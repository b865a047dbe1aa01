"""Passwords: which are accepted, their argon2id hashes, and changing or resetting one.

A new password ends every earlier session, because one of them may be a thief's.
"""

import threading
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.auth import events, otp
from app.auth.errors import AccountNotFound, OtpInvalid, WrongPassword
from app.auth.events import Client
from app.auth.keys import revoke_keys
from app.auth.models import EventType, Purpose
from app.auth.sessions import Tokens, open_session, revoke_sessions
from app.auth.throttles import (
    WRONG_CODES_BUDGET,
    record_password_attempt,
    refund_password_attempt,
    refunded_when_busy,
)
from app.billing.tier import tier_of
from app.core.errors import ServiceUnavailable, ValidationFailed
from app.core.transactions import Transaction, release_connection, transaction
from app.users import service as users
from app.users.numbers import mobile_key
from app.users.service import require_locked_user, require_user

MIN_CHARS, MAX_CHARS = 8, 128  # NIST SP 800-63B-4, 3.1.1.2: at least 8 with a second way in, at least 64 allowed
COMMON_PASSWORDS = Path(__file__).with_name("common_passwords.txt")

# OWASP's Password Storage Cheat Sheet: argon2id, 19 MiB, two passes, one lane.
hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# A hash takes 19 MiB and a core for some 20 ms: a flood of logins must not take all of either.
hash_slots = threading.BoundedSemaphore(4)
HASH_SLOT_SECONDS = 3.0  # how long a request waits for a slot


def is_common(password: str) -> bool:
    """Whether the password is one of the most common, in any case."""
    return password.casefold() in common_passwords()


@cache
def common_passwords() -> frozenset[str]:
    """The most common passwords, in lower case."""
    lines = COMMON_PASSWORDS.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def hash_password(password: str) -> str:
    """An argon2id hash with its parameters and salt. Raises ServiceUnavailable when too many requests hash."""
    return str(with_hash_slot(hasher.hash, password))


def password_matches(password_hash: str | None, password: str) -> bool:
    """Whether the password has this hash; takes as long when there is no hash.

    Raises ServiceUnavailable when too many requests hash.
    """
    dummy = dummy_hash()
    try:
        with_hash_slot(hasher.verify, password_hash or dummy, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


@cache
def dummy_hash() -> str:
    """A hash to compare with where the user has none."""
    return hasher.hash("the password of an account that does not exist")


def with_hash_slot(work: Any, *args: str) -> Any:
    """Do memory-hungry work in one of the few slots. Raises ServiceUnavailable."""
    if not hash_slots.acquire(timeout=HASH_SLOT_SECONDS):
        raise ServiceUnavailable
    try:
        return work(*args)
    finally:
        hash_slots.release()


def change_password(
    user_id: UUID, *, current: str | None, new: str, ends_keys: bool = False, client: Client, now: datetime
) -> Tokens:
    """Set a password and begin a new session; every earlier token stops working.

    current: the password that is set now; None only if none is. ends_keys: whether API keys stop working too.
    Raises ValidationFailed, WrongPassword, RateLimited, TokenRevoked, ServiceUnavailable.
    """
    user = require_user(user_id)
    release_connection()  # a hash may have to wait for its slot
    known_hash = user.password_hash
    if known_hash is not None:
        if current is None:
            raise ValidationFailed({"current_password": ["Required, because a password is set."]})
        require_password(user.mobile, known_hash, current, now)
    new_hash = hash_password(new)
    with transaction() as tx:
        tokens = replace_password(tx, user_id, known_hash, new_hash, client=client, now=now)
        if ends_keys:
            revoke_keys(tx, user_id, now, revoked_by=client)
        return tokens


def require_password(mobile: str, password_hash: str | None, password: str, now: datetime) -> None:
    """Compare the password of somebody logged in; no transaction is open meanwhile.

    It is first recorded as an attempt on the number, which is refunded if it was right or could not be compared.
    Raises WrongPassword, RateLimited, ServiceUnavailable.
    """
    key = mobile_key(mobile)
    with transaction():
        window_start = record_password_attempt(key, now)
    with refunded_when_busy(key, window_start):
        if not password_matches(password_hash, password):
            raise WrongPassword
    with transaction():
        refund_password_attempt(key, window_start)


def replace_password(
    tx: Transaction, user_id: UUID, known_hash: str | None, new_hash: str, *, client: Client, now: datetime
) -> Tokens:
    """Replace the known hash, end every session and begin a new one.

    Raises TokenRevoked; WrongPassword when somebody else changed the password meanwhile.
    """
    user = require_locked_user(user_id)
    if user.password_hash != known_hash:
        raise WrongPassword
    user.password_hash = new_hash
    events.record(user_id, EventType.PASSWORD_CHANGED, client, now)
    revoke_sessions(tx, user_id, now)
    return open_session(user, tier_of(user_id, now), client, now)


def reset_password(mobile: str, code: str, new: str, client: Client, *, ends_keys: bool = False, now: datetime) -> None:
    """Set a password with a code that was sent for it; every earlier token stops working.

    The code also verifies the number, if it was not verified. ends_keys: whether API keys stop working too.
    Raises OtpInvalid, OtpLocked, ServiceUnavailable, AccountNotFound (the code was right and is used up).
    """
    new_hash = hash_password(new)
    with WRONG_CODES_BUDGET.spend():
        with transaction() as current:
            is_right = otp.use_code(mobile, Purpose.RESET_PASSWORD, code, now)
            user = users.lock_user_by_mobile(mobile)
            if is_right and user is not None:
                user.password_hash = new_hash
                user.verified_at = user.verified_at or now
                events.record(user.id, EventType.PASSWORD_CHANGED, client, now)
                revoke_sessions(current, user.id, now)
                if ends_keys:
                    revoke_keys(current, user.id, now, revoked_by=client)
                return
            if not is_right:
                events.record_lock(mobile, client, now)
        raise AccountNotFound if is_right else OtpInvalid
