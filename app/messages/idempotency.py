"""The Idempotency-Key of a prompt: what its first answer said, the reply as it was then included."""

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, exists, select
from sqlalchemy.orm import make_transient

from app.chatrooms.idempotency import find_record
from app.chatrooms.models import Chatroom, ErrorCode, IdempotencyKey, Message, Status
from app.core.db import db
from app.integrations.gemini.client import FinishReason, Usage
from app.streaming.events import Context

COUNTS = [field.name for kind in (Usage, Context) for field in fields(kind)]
UNKNOWN = dict.fromkeys(("text", "error_code", "finish_reason", "model", "completed_at", *COUNTS))
# What changes of a reply, as a 202 shows it
QUEUED: dict[str, Any] = UNKNOWN | {"status": Status.QUEUED, "passed_on": False, "superseded": False}
TYPES: dict[str, Callable[[Any], Any]] = {  # of those that JSON keeps as text
    "status": Status,
    "error_code": ErrorCode,
    "finish_reason": FinishReason,
    "completed_at": datetime.fromisoformat,
}

IS_KNOWN = exists().where(
    IdempotencyKey.user_id == bindparam("user"), IdempotencyKey.key == bindparam("idempotency_key")
)


def find(user_id: UUID, key: str, fingerprint: str, now: datetime) -> tuple[Message, Message, datetime | None] | None:
    """The prompt and the reply that were answered under the key, or None; and until when that request may wait.

    It waits no longer when its answer brought the reply as it ended. Raises IdempotencyKeyReused when it was another.
    """
    record = find_record(user_id, key, fingerprint, now)
    if record is None:
        return None
    in_room = Chatroom.id == Message.chatroom_id
    owned = select(Message).join(Chatroom, in_room).where(Chatroom.user_id == user_id)
    prompt = db.session.scalar(owned.where(Message.id == record.prompt_id))
    first_reply = owned.where(Message.in_reply_to == record.prompt_id).order_by(Message.position).limit(1)
    reply = db.session.scalar(first_reply)
    if prompt is None or reply is None:  # the chatroom is deleted, and the caller finds none
        return None
    prompt = as_answered(prompt, {"superseded": False})
    if record.answered_with_reply:
        return prompt, as_answered(reply, record.reply or {}), None
    return prompt, as_answered(reply, QUEUED), record.waits_until


def note_ended(user_id: UUID, key: str, reply: Message) -> None:
    """The first answer brought the reply itself, so later ones bring it as it was then."""
    record = db.session.get(IdempotencyKey, (user_id, key))
    if record is not None:
        record.answered_with_reply = True
        ended = {name: getattr(reply, name) for name in QUEUED}
        record.reply = ended | {"completed_at": reply.completed_at and reply.completed_at.isoformat()}


def as_answered(message: Message, values: dict[str, Any]) -> Message:
    """The message as an earlier answer showed it."""
    make_transient(message)
    for name, value in values.items():
        setattr(message, name, TYPES[name](value) if name in TYPES and value is not None else value)
    return message
