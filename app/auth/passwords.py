"""Passwords: which are accepted, their argon2id hashes, and changing or resetting one.

A new password ends every earlier session, because one of them may be a thief's.
"""

import logging
import re
import threading
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, VerifyMismatchError

from app.auth import events
from app.auth.errors import WrongPassword
from app.auth.models import EventType, Purpose
from app.auth.otp import proven_user
from app.auth.sessions import Tokens, lock_session, open_session, revoke_keys, revoke_sessions
from app.auth.throttles import record_password_attempt, refund_password_attempt
from app.core.errors import AppError, ServiceUnavailable, ValidationFailed
from app.core.http import Client
from app.core.transactions import Transaction, release_connection, transaction
from app.users.models import User
from app.users.service import mobile_key, require_locked_user, require_user

log = logging.getLogger(__name__)

MIN_CHARS, MAX_CHARS = 8, 128  # NIST SP 800-63B-4, 3.1.1.2: at least 8 with a second way in, at least 64 allowed
COMMON_PASSWORDS = Path(__file__).with_name("common_passwords.txt")

# OWASP's Password Storage Cheat Sheet: argon2id, 19 MiB, two passes, one lane.
hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# A hash takes 19 MiB and a core for some 20 ms: a flood of logins must not take all of either.
hash_slots = threading.BoundedSemaphore(4)
HASH_SLOT_SECONDS = 3.0  # how long a request waits for a slot
# Compared when the user has no password: the hash of a random one, at the same cost.
NOBODYS_HASH = "$argon2id$v=19$m=19456,t=2,p=1$bczIcG7li4T/X0gj6HUPNQ$vHljfI+YNw0jcCvRvj5vBhoeOvrRpADPYXVugpyRLp0"


@cache
def common_passwords() -> frozenset[str]:
    """The most common passwords, in lower case."""
    lines = COMMON_PASSWORDS.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def refuse_own_number(password: str, mobile: str) -> None:
    """Refuse the account's number (E.164) in its usual spellings: it is the name to log in with (NIST, 3.1.1.2).

    Raises ValidationFailed.
    """
    digits = re.sub(r"[\s()+./-]", "", password).lstrip("0")  # without the prefixes 00 and 0
    if digits and mobile.endswith(digits):
        raise ValidationFailed({"new_password": ["This is your mobile number. Choose another password."]})


def hash_password(password: str) -> str:
    """An argon2id hash with its parameters and salt. Raises what `with_hash_slot` does."""
    return str(with_hash_slot(hasher.hash, password))


def password_matches(password_hash: str | None, password: str) -> bool:
    """Whether the password has this hash; takes as long when there is no hash. Raises what `with_hash_slot` does."""
    try:
        with_hash_slot(hasher.verify, password_hash or NOBODYS_HASH, password)
    except VerifyMismatchError:
        return False
    return password_hash is not None


def with_hash_slot(work: Any, *args: str) -> Any:
    """Do memory-hungry work in one of the few slots.

    Raises ServiceUnavailable when no slot becomes free in time, or there is no memory for the work.
    """
    if not hash_slots.acquire(timeout=HASH_SLOT_SECONDS):
        log.warning("Password not hashed: no slot became free within %.0f s", HASH_SLOT_SECONDS)
        raise ServiceUnavailable
    try:
        return work(*args)
    except VerifyMismatchError:
        raise
    except Argon2Error as error:
        log.warning("Password not hashed: %s", error)
        raise ServiceUnavailable from error
    finally:
        hash_slots.release()


def change_password(
    user_id: UUID,
    session_id: UUID,
    *,
    new_password: str,
    current_password: str | None,
    end_api_keys: bool,
    client: Client,
    now: datetime,
) -> Tokens:
    """Set a password and begin a new session; every earlier token stops working.

    session_id: the session of the request, which must still be active once the passwords are hashed. current_password:
    the one that is set now; None only if none is. end_api_keys: whether API keys stop working too.
    Raises ValidationFailed, WrongPassword, RateLimited, TokenRevoked, ServiceUnavailable.
    """
    user = require_user(user_id)
    release_connection()  # a hash may have to wait for its slot
    refuse_own_number(new_password, user.mobile)
    known_hash = user.password_hash
    if known_hash is not None:
        if current_password is None:
            raise ValidationFailed({"current_password": ["Required, because a password is set."]})
        require_password(user.mobile, known_hash, current_password, now)
    new_hash = hash_password(new_password)
    with transaction() as tx:
        user = require_locked_user(user_id)
        lock_session(session_id, user_id)  # it has ended if the password was changed meanwhile
        set_password(tx, user, new_hash, end_api_keys=end_api_keys, client=client, now=now)
        return open_session(tx, user, client, now)


def require_password(
    mobile: str,
    password_hash: str | None,
    password: str,
    now: datetime,
    *,
    when_wrong: type[AppError] = WrongPassword,
) -> None:
    """Compare a password; it takes as long when there is no hash. No connection is held meanwhile.

    The attempt is counted first, and refunded if the password was right or could not be compared: a flood of logins
    must not lock anybody out. Raises `when_wrong`, RateLimited, ServiceUnavailable.
    """
    key, is_wrong = mobile_key(mobile), False
    with transaction():
        window_start = record_password_attempt(key, now)
    try:
        is_wrong = not password_matches(password_hash, password)
    finally:
        if not is_wrong:  # right, or never compared
            with transaction():
                refund_password_attempt(key, window_start)
    if is_wrong:
        raise when_wrong


def reset_password(
    *, mobile: str, otp: str, new_password: str, end_api_keys: bool, client: Client, now: datetime
) -> None:
    """Set a password with a code that was sent for it; every earlier token stops working.

    The code also verifies the number, if it was not verified. end_api_keys: whether API keys stop working too.
    Raises ValidationFailed, and what `hash_password` and `proven_user` do.
    """
    refuse_own_number(new_password, mobile)
    new_hash = hash_password(new_password)
    with proven_user(mobile, Purpose.RESET_PASSWORD, otp, client, now) as (tx, user):
        set_password(tx, user, new_hash, end_api_keys=end_api_keys, client=client, now=now)


def set_password(
    tx: Transaction, user: User, new_hash: str, *, end_api_keys: bool, client: Client, now: datetime
) -> None:
    """Set a locked user's password. Ends every earlier session, and the API keys if `end_api_keys`."""
    user.password_hash = new_hash
    events.record(user.id, EventType.PASSWORD_CHANGED, client, now)
    revoke_sessions(tx, user.id, now)
    if end_api_keys:
        revoke_keys(tx, user.id, now, revoked_by=client)
