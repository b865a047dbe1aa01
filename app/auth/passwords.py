"""Passwords: which ones will do, and their argon2id hashes."""

import threading
from functools import cache
from pathlib import Path
from typing import Any

import marshmallow as ma
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.core.errors import ServiceUnavailable
from app.core.schemas import Text

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
