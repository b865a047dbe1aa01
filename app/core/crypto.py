"""Keyed hashes and encryption, each purpose under a key of its own, derived from HASH_SECRET.

Without HASH_SECRET the keys derive from JWT_SECRET, which then must stay as long as anything that it hashes.
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
    """HMAC-SHA-256 over `parts`, hexadecimal: recognisable, not readable."""
    return hmac.new(purpose_key(f"hash:{purpose}"), "\x1f".join(parts).encode(), hashlib.sha256).hexdigest()


def seal(purpose: str, text: str) -> str:
    """The text, encrypted and authenticated (Fernet): readable by this service alone."""
    return sealer(purpose).encrypt(text.encode()).decode()


def unseal(purpose: str, sealed: str) -> str | None:
    """The sealed text; None when it was not sealed under this secret."""
    try:
        return sealer(purpose).decrypt(sealed.encode()).decode()
    except InvalidToken:
        return None


def sealer(purpose: str) -> Fernet:
    """Fernet under the key of one purpose."""
    return Fernet(base64.urlsafe_b64encode(purpose_key(f"seal:{purpose}")))


def purpose_key(purpose: str) -> bytes:
    """The key of one purpose of this service."""
    return derive_key(settings().hash_secret or settings().jwt_secret, purpose)


@lru_cache(maxsize=32)  # the same few at each request
def derive_key(secret: str, purpose: str) -> bytes:
    """32 bytes for one purpose (HKDF-SHA-256, RFC 5869), from which neither the secret nor another key follows."""
    return HKDF(SHA256(), length=32, salt=None, info=purpose.encode()).derive(secret.encode())
