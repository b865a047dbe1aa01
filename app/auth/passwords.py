"""Passwords, kept as argon2id hashes."""

from argon2 import PasswordHasher

MIN_CHARS, MAX_CHARS = (
    8,
    128,
)  # NIST SP 800-63B-4, 3.1.1.2: at least 8 with a second factor, at least 64 allowed

hasher = PasswordHasher()  # argon2-cffi's defaults: RFC 9106's low-memory profile


def hash_password(password: str) -> str:
    return hasher.hash(password)
