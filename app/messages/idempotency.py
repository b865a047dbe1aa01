"""Idempotency keys: the same request sent again gives the first one's answer.

The key is written in the prompt's own transaction, under the user's lock: of parallel requests the first
writes it and the others find it. Kept 24 hours; only accepted prompts are remembered.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import make_transient

from app.chatrooms.models import Message, Status
from app.core.db import db
from app.messages.errors import IdempotencyKeyReused
from app.messages.models import IdempotencyKey

LIFETIME = timedelta(hours=24)


@dataclass
class KnownRequest:
    """What was answered under a key.

    ended: the first answer brought the reply as it ended. waits_until: the first request may still wait for that.
    """

    prompt: Message
    reply: Message
    ended: bool
    waits_until: datetime | None


def find(user_id: UUID, key: str, fingerprint: str, now: datetime) -> KnownRequest | None:
    """The request that came under the key, or None. Raises IdempotencyKeyReused when it was another.

    A chatroom that is deleted takes its keys along, maybe at this very moment.
    """
    record = db.session.get(IdempotencyKey, (user_id, key))
    if record is None:
        return None
    if record.created_at <= now - LIFETIME:
        db.session.delete(record)
        db.session.flush()
        return None
    if record.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    prompt = db.session.get(Message, record.prompt_id)
    reply = db.session.scalar(select(Message).where(Message.in_reply_to == record.prompt_id))
    if prompt is None or reply is None:
        return None
    if record.answered_with_reply:
        return KnownRequest(prompt, reply, ended=True, waits_until=None)
    return KnownRequest(prompt, as_accepted(reply), ended=False, waits_until=record.waits_until)


def remember(
    user_id: UUID, key: str, fingerprint: str, *, prompt_id: UUID, waits_until: datetime | None, now: datetime
) -> None:
    """Write the key down in the prompt's own transaction. waits_until: how long its request waits for the reply."""
    db.session.add(
        IdempotencyKey(
            user_id=user_id,
            key=key,
            fingerprint=fingerprint,
            prompt_id=prompt_id,
            waits_until=waits_until,
            created_at=now,
        )
    )


def note_ended(user_id: UUID, key: str) -> None:
    """The first answer brought the reply itself, so later ones do."""
    record = db.session.get(IdempotencyKey, (user_id, key))
    if record is not None:
        record.answered_with_reply = True


def forget_old_keys(now: datetime, *, at_most: int) -> int:
    """Delete keys past their lifetime, in the caller's transaction; how many."""
    old = select(IdempotencyKey.prompt_id).where(IdempotencyKey.created_at <= now - LIFETIME).limit(at_most)
    result = db.session.execute(delete(IdempotencyKey).where(IdempotencyKey.prompt_id.in_(old)))
    return int(result.rowcount)  # type: ignore[attr-defined]


def as_accepted(reply: Message) -> Message:
    """The reply as the first answer showed it: queued."""
    make_transient(reply)
    reply.status = Status.QUEUED
    reply.text = reply.error_code = reply.model = None
    reply.prompt_tokens = reply.output_tokens = None
    reply.completed_at = None
    return reply
