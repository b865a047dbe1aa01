"""Use cases of a client and an operator on a reply: cancel it, or generate it again."""

import logging
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import select

from app.chatrooms.models import Message, Role, Status, messages
from app.chatrooms.service import get_chatroom, get_message, require_model
from app.core.db import db
from app.core.errors import AppError
from app.core.redis import require_redis
from app.core.transactions import release_connection, transaction
from app.generation import state
from app.generation.conversation import supersede
from app.quota.ledger import new_charge
from app.quota.usage import Usage, spend_prompt, usage_of
from app.streaming.events import Entry, pieces_until, publish
from app.users.service import lock_user, mobile_key, require_locked_user

log = logging.getLogger(__name__)


class ReplyNotCancelable(AppError):
    """It has ended, or is not a reply."""

    status, code = HTTPStatus.CONFLICT, "reply_not_cancelable"
    detail = "Only a reply that is queued or generating can be canceled."


class ReplyNotRetryable(AppError):
    """It is not a reply, has not ended, is superseded, or is completed while another of its room is under way."""

    status, code = HTTPStatus.CONFLICT, "reply_not_retryable"
    detail = (
        "Only a reply that has ended and is not superseded can be retried."
        " A completed one can be retried only while no other reply of its chatroom is under way."
    )


def cancel_reply(user_id: UUID, chatroom_id: UUID, reply_id: UUID, *, now: datetime) -> Message:
    """Stop a reply that is queued or generating, and keep the text written so far.

    `LeaseKeeper` (`app/generation/worker.py`) notices that the lease is gone, and aborts the call to Gemini. The prompt
    is refunded only if no worker has claimed the reply since the charge. Raises NotFound, ReplyNotCancelable.
    """
    reply = get_message(user_id, chatroom_id, reply_id)
    while not reply.status.is_final:
        text_so_far = close_stream(reply) if reply.status is Status.GENERATING else ""
        with transaction() as tx:
            lock_user(user_id)
            canceled = state.cancel(tx, reply, user_id, text_so_far, now)
        reply = get_message(user_id, chatroom_id, reply_id)
        if canceled:
            return reply
        # It was claimed, retried or finished meanwhile.
    raise ReplyNotCancelable


def close_stream(reply: Message) -> str:
    """Close the attempt's stream and return the text before its end: followers got that much and no more."""
    release_connection()
    try:
        end_id = publish(reply.id, Entry(reply.attempt, status=Status.CANCELED))
        return pieces_until(reply.id, end_id, reply.attempt)
    except redis.RedisError:
        log.warning("A reply was canceled while Redis was unavailable; the text written so far is lost")
        return ""


def retry_reply(user_id: UUID, chatroom_id: UUID, reply_id: UUID, *, now: datetime) -> tuple[Message, Usage]:
    """Generate a reply again, for one prompt of the day. Returns the reply, and the usage of the day.

    Gemini sees only the turns before it. A failed or canceled reply is generated again in place, and text that was kept
    of it stays until the new text is there. A completed reply is superseded with all turns after it, and a new reply is
    made.
    Raises TokenRevoked, NotFound, ReplyNotRetryable, ModelNotInTier, QuotaExceeded, redis.RedisError; then nothing
    changed.
    """
    require_redis()
    with transaction() as tx:
        user = require_locked_user(user_id)
        room = get_chatroom(user_id, chatroom_id, locked=True)
        reply = get_message(user_id, chatroom_id, reply_id, locked=True)  # an operator may retry it as well
        if reply.role is not Role.MODEL or not reply.status.is_final or reply.superseded:
            raise ReplyNotRetryable
        if reply.status is Status.COMPLETED and not supersede(chatroom_id, reply.position):
            raise ReplyNotRetryable
        # Later than the previous charge, even if a machine whose clock is ahead made that.
        accepted_at = max(now, (reply.accepted_at or reply.created_at) + timedelta(microseconds=1))
        key, usage = mobile_key(user.mobile), usage_of(user, now)
        require_model(room.model, usage.tier)
        usage = spend_prompt(key, usage)
        if reply.status is Status.COMPLETED:
            reply = state.regenerate(tx, room, reply, accepted_at)
        else:
            state.retry(tx, reply, accepted_at)
        db.session.flush()  # the charge refers to a reply that may be new
        charge = new_charge(user_id, key, reply.id, usage.tier, now)
        charge.created_at = accepted_at
        db.session.add(charge)
    return reply, usage


def retry_failed(reply_id: UUID | None, *, until: datetime, now: datetime) -> list[UUID]:
    """Queue a reply that failed by `until` again, or without an id a batch of them, free of charge. Returns the ids."""
    with transaction() as tx:
        return state.retry_failed(tx, reply_id, until=until, now=now)


def failed_replies(*, limit: int) -> list[dict[str, Any]]:
    """Return the replies that failed last, newest first, with nothing of their conversations."""
    columns = messages.c
    shown = (columns.id, columns.chatroom_id, columns.error_code, columns.attempt.label("attempts"))
    times = (columns.created_at, columns.completed_at.label("failed_at"), columns.request_id)
    failed = select(*shown, *times).where(columns.status == Status.FAILED)
    rows = db.session.execute(failed.order_by(columns.completed_at.desc()).limit(limit))
    return [dict(row) for row in rows.mappings()]
