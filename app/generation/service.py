"""Use cases of a client on a reply: cancel it, or have it made again."""

import logging
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import redis
from sqlalchemy import func, update

from app.billing.tier import tier_of
from app.chatrooms.models import Message, Role, Status, messages
from app.chatrooms.queries import find_message
from app.chatrooms.service import get_message
from app.core.db import db
from app.core.errors import NotFound
from app.core.ids import request_id
from app.core.redis import require_redis
from app.core.transactions import Transaction, release_connection, transaction
from app.generation.errors import ReplyNotCancelable, ReplyNotRetryable
from app.generation.state import enqueue_next, enqueue_reply
from app.quota.ledger import refund_prompt
from app.quota.usage import Usage, spend_prompt
from app.streaming import events as reply_stream
from app.users.service import lock_user, require_locked_user

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retried:
    """A reply that is queued again, and what is left of the day."""

    reply: Message
    usage: Usage


def cancel_reply(user_id: UUID, chatroom_id: UUID, reply_id: UUID, *, now: datetime) -> Message:
    """Stop a reply that is queued or under way, and keep what was written of it.

    Its prompt is given back only if it was still queued. Raises NotFound, ReplyNotCancelable.
    """
    reply = get_message(user_id, chatroom_id, reply_id)
    while reply.role is Role.MODEL and not reply.status.is_final:
        part = part_written(reply) if reply.status is Status.GENERATING else ""
        with transaction() as current:
            lock_user(user_id)
            if end_as_canceled(reply, part, now):
                if reply.status is Status.QUEUED:
                    refund_prompt(reply.id, now)
                after_cancel(reply, user_id, current, now)
                return get_message(user_id, chatroom_id, reply_id)
        reply = get_message(user_id, chatroom_id, reply_id)  # claimed, retried or finished meanwhile
    raise ReplyNotCancelable


def part_written(reply: Message) -> str:
    """Close the attempt's stream, and read what came before: readers were told that much and no more."""
    release_connection()
    try:
        end_id = reply_stream.publish(reply.id, reply_stream.Entry(reply.attempt, status=Status.CANCELED))
        return reply_stream.pieces_until(reply.id, end_id, reply.attempt)
    except redis.RedisError:
        log.warning("A reply was canceled while Redis was unavailable; its part is lost")
        return ""


def end_as_canceled(reply: Message, part: str, now: datetime) -> bool:
    """Cancel the reply if it still is as it was read; whether it was."""
    statement = (
        update(messages)
        .where(
            messages.c.id == reply.id,
            messages.c.status == reply.status,
            messages.c.attempt == reply.attempt,
        )
        .values(
            status=Status.CANCELED,
            text=func.coalesce(func.nullif(part, ""), messages.c.text),
            completed_at=now,
            lease_expires_at=None,
            held_for=None,
            slot=None,
            not_before=None,
        )
        .returning(messages.c.id)
    )
    return db.session.scalar(statement) is not None


def after_cancel(reply: Message, user_id: UUID, current: Transaction, now: datetime) -> None:
    enqueue_next(current, reply.chatroom_id, user_id, now=now)
    current.after_commit(lambda: reply_stream.stop_generating(reply.id))
    current.after_commit(
        lambda: reply_stream.publish(reply.id, reply_stream.Entry(reply.attempt, status=Status.CANCELED))
    )


def retry_reply(user_id: UUID, chatroom_id: UUID, reply_id: UUID, *, now: datetime) -> Retried:
    """Have a failed or canceled reply made again, for one prompt of the day. It sees only the turns before it.

    A part that was kept stays until the new text is there.
    Raises TokenRevoked, NotFound, ReplyNotRetryable, QuotaExceeded, redis.RedisError; then nothing changed.
    """
    require_redis()
    with transaction() as current:
        user = require_locked_user(user_id)
        reply = find_message(user_id, chatroom_id, reply_id)
        if reply is None:
            raise NotFound
        if reply.status not in {Status.FAILED, Status.CANCELED}:
            raise ReplyNotRetryable
        usage = spend_prompt(user, tier_of(user_id, now), reply.id, now)
        reply.status, reply.error_code, reply.failures = Status.QUEUED, None, 0
        reply.started_at = reply.completed_at = None
        reply.accepted_at = reply.not_before = reply.enqueued_at = now
        reply.request_id = request_id()
        enqueue_reply(current, reply_id)
    return Retried(reply, usage)
