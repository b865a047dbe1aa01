"""Keyed hashes and encryption. Each purpose has a key of its own, derived from HASH_SECRET.

Without HASH_SECRET the keys are derived from JWT_SECRET, which must then stay the same for as long as any hash is kept.
"""

import base64
import hashlib
import hmac
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.core import settings


def keyed_hash(purpose: str, *parts: str) -> str:
    """Return the HMAC-SHA-256 of `parts` in hexadecimal: equal inputs can be recognized, but not read."""
    return hmac.new(purpose_key(f"hash:{purpose}"), "\x1f".join(parts).encode(), hashlib.sha256).hexdigest()


def seal(text: str) -> str:
    """Encrypt and authenticate the text message of a one-time code (Fernet), so that only this service can read it."""
    return sealer().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str | None:
    """Decrypt what `seal` returned. Returns None if it was not sealed with this secret."""
    try:
        return sealer().decrypt(sealed.encode()).decode()
    except InvalidToken:
        return None


def sealer() -> Fernet:
    return Fernet(base64.urlsafe_b64encode(purpose_key("seal:one-time-code")))


def purpose_key(purpose: str) -> bytes:
    """Return the key of one purpose of this service."""
    return derive_key(settings().hash_secret or settings().jwt_secret, purpose)


@lru_cache(maxsize=32)  # each request needs the same few
def derive_key(secret: str, purpose: str) -> bytes:
    """Derive 32 bytes for one purpose (HKDF-SHA-256, RFC 5869). They reveal neither the secret nor another key."""
    return HKDF(SHA256(), length=32, salt=None, info=purpose.encode()).derive(secret.encode())
