"""One-time codes (NIST SP 800-63B-4, 3.1.3): made, kept as keyed hashes, used once."""

import hmac
import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from app.auth.models import OneTimeCode, Purpose
from app.core.database import db
from app.core.keyed_hashes import keyed_hash
from app.users.mobile_numbers import mobile_key

DIGITS = 6  # NIST SP 800-63B-4: at least six decimal digits
LIFETIME = timedelta(minutes=5)  # NIST allows ten; five is enough to type six digits


def issue_code(mobile: str, purpose: Purpose, now: datetime) -> str:
    """A fresh code for the number and purpose; an earlier one stops working."""
    code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
    key = mobile_key(mobile)
    db.session.execute(delete(OneTimeCode).where(OneTimeCode.mobile_key == key, OneTimeCode.purpose == purpose))
    db.session.add(
        OneTimeCode(
            mobile_key=key,
            purpose=purpose,
            code_hash=hash_code(mobile, purpose, code),
            created_at=now,
            expires_at=now + LIFETIME,
        )
    )
    return code


def use_code(mobile: str, purpose: Purpose, code: str, now: datetime) -> bool:
    """Whether the code is the right one; if so it is used up, for one caller alone."""
    newest = db.session.scalar(
        select(OneTimeCode)
        .where(
            OneTimeCode.mobile_key == mobile_key(mobile),
            OneTimeCode.purpose == purpose,
            OneTimeCode.used_at.is_(None),
            OneTimeCode.expires_at > now,
        )
        .order_by(OneTimeCode.created_at.desc())
        .limit(1)
    )
    offered = hash_code(mobile, purpose, code)
    if newest is None or not hmac.compare_digest(newest.code_hash, offered):
        return False
    claim = (
        update(OneTimeCode)
        .where(OneTimeCode.id == newest.id, OneTimeCode.used_at.is_(None))
        .values(used_at=now)
        .returning(OneTimeCode.id)
    )
    return db.session.scalar(claim) is not None


def hash_code(mobile: str, purpose: Purpose, code: str) -> str:
    """What is stored of a code: bound to its number and purpose."""
    return keyed_hash("one-time-code", mobile, purpose, code)
