"""Passwords: which ones will do, and their argon2id hashes.

Use cases of setting a password. Each ends every earlier session, because one of them may be a thief's.
"""

import threading
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import marshmallow as ma
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.auth import otp as codes
from app.auth.errors import AccountNotFound, OtpInvalid, WrongPassword
from app.auth.models import Purpose
from app.auth.sessions import Client, Tokens, open_session, revoke_sessions
from app.auth.throttles import WRONG_CODES_BUDGET, give_password_try_back, given_back_when_busy, take_password_try
from app.billing.tier import tier_of
from app.core.errors import ServiceUnavailable, ValidationFailed
from app.core.schemas import Text
from app.core.transactions import transaction
from app.users import service as users
from app.users.numbers import mobile_key
from app.users.service import require_locked_user, require_user

MIN_CHARS, MAX_CHARS = 8, 128  # NIST SP 800-63B-4, 3.1.1.2: at least 8 with a second way in, at least 64 allowed
COMMON_PASSWORDS = Path(__file__).with_name("common_passwords.txt")
TOO_COMMON = "This password is among the first that anybody would try. Choose another one."

# OWASP's Password Storage Cheat Sheet: argon2id, 19 MiB, two passes, one lane.
hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# A hash takes 19 MiB and a core for some 20 ms: a flood of logins must not take all of either.
places = threading.BoundedSemaphore(4)
SLOT_SECONDS = 3.0


class NewPassword(Text):
    """A password that somebody chooses."""

    def __init__(self, *, description: str, **kwargs: Any) -> None:
        metadata = {"description": description, "example": "correct horse battery staple", "format": "password"}
        super().__init__(
            min_chars=MIN_CHARS, max_chars=MAX_CHARS, trim=False, load_only=True, metadata=metadata, **kwargs
        )

    def _deserialize(self, *args: Any, **kwargs: Any) -> str:
        password = str(super()._deserialize(*args, **kwargs))
        if password.casefold() in common_passwords():
            raise ma.ValidationError(TOO_COMMON)
        return password


@cache
def common_passwords() -> frozenset[str]:
    """The commonest passwords, in lower case."""
    lines = COMMON_PASSWORDS.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def hash_password(password: str) -> str:
    """An argon2id hash with its parameters and salt. Raises ServiceUnavailable when too many wait for theirs."""
    return str(with_hash_slot(hasher.hash, password))


def password_matches(password_hash: str | None, password: str) -> bool:
    """Whether the password is the one hashed; takes as long when there is no hash to compare with.

    Raises ServiceUnavailable when too many wait.
    """
    stand_in = dummy_hash()
    try:
        with_hash_slot(hasher.verify, password_hash or stand_in, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


@cache
def dummy_hash() -> str:
    """A hash to compare with where there is none."""
    return hasher.hash("the password of an account that does not exist")


def with_hash_slot(work: Any, *args: str) -> Any:
    """Do work that needs much memory, with a few others at most."""
    if not places.acquire(timeout=SLOT_SECONDS):
        raise ServiceUnavailable
    try:
        return work(*args)
    finally:
        places.release()


def change_password(user_id: UUID, *, current: str | None, new: str, client: Client, now: datetime) -> Tokens:
    """Set a password and begin a new session; every earlier token stops working.

    current: the password that is set now; None only where none is. It is counted as a guess at first, and given
    back when it was right or could not be compared.
    Raises ValidationFailed, WrongPassword, RateLimited, TokenRevoked, ServiceUnavailable.
    """
    user = require_user(user_id)
    key, known_hash = mobile_key(user.mobile), user.password_hash
    if known_hash is None:
        new_hash = hash_password(new)
        with transaction():
            return replace_password(user_id, known_hash, new_hash, client, now)
    if current is None:
        raise ValidationFailed({"current_password": ["Required, because a password is set."]})
    with transaction():
        counted_since = take_password_try(key, now)
    with given_back_when_busy(key, counted_since):
        if not password_matches(known_hash, current):
            raise WrongPassword
        new_hash = hash_password(new)
    with transaction():
        give_password_try_back(key, counted_since)
        return replace_password(user_id, known_hash, new_hash, client, now)


def replace_password(user_id: UUID, known_hash: str | None, new_hash: str, client: Client, now: datetime) -> Tokens:
    """Put a hash in the place of the known one, end every session and begin a new one; the caller commits.

    Raises TokenRevoked; WrongPassword when somebody else changed the password meanwhile.
    """
    user = require_locked_user(user_id)
    if user.password_hash != known_hash:
        raise WrongPassword
    user.password_hash = new_hash
    revoke_sessions(user_id, now)
    return open_session(user, tier_of(user_id, now), client, now)


def reset_password(mobile: str, code: str, new: str, *, now: datetime) -> None:
    """Set a password with a code that was sent for it; every earlier token stops working.

    The code proves the number, so it also verifies one that never was.
    Raises OtpInvalid, OtpLocked, ServiceUnavailable, AccountNotFound (the code was right and is used up).
    """
    new_hash = hash_password(new)
    with WRONG_CODES_BUDGET.spend():
        with transaction():
            is_right = codes.use_code(mobile, Purpose.RESET_PASSWORD, code, now)
            user = users.lock_user_by_mobile(mobile)
            if is_right and user is not None:
                user.password_hash = new_hash
                user.verified_at = user.verified_at or now
                revoke_sessions(user.id, now)
                return
        raise AccountNotFound if is_right else OtpInvalid
