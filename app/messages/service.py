"""Use cases of a client: send or edit a prompt, wait for its reply, read a room."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, exists, select, update

from app.chatrooms.list_cache import invalidate_list
from app.chatrooms.models import Chatroom, ErrorCode, IdempotencyKey, Message, Role, Status
from app.chatrooms.service import IS_OWN, find_record, get_chatroom, get_message, require_model
from app.core import settings
from app.core.admission import held_request
from app.core.auth import TokenRevoked
from app.core.clock import utc_now
from app.core.db import TRANSIENT_DATABASE_ERRORS, db, log_database_error
from app.core.errors import AppError, NotFound
from app.core.redis import require_redis
from app.core.schemas import Page, cut_page, decode_cursor, encode_cursor
from app.core.transactions import release_connection, transaction
from app.generation import state
from app.generation.conversation import supersede
from app.generation.queueing import new_exchange
from app.integrations.gemini.client import FinishReason
from app.quota.ledger import new_charge
from app.quota.usage import USAGE, Usage, read_usage, spend_prompt, usage_today, usage_values
from app.streaming.following import wait_until_final
from app.users.service import mobile_key, require_locked_user

log = logging.getLogger(__name__)

ROOM_PAGE_SIZE = 50
ADMISSION = USAGE.add_columns(
    exists().where(*IS_OWN).label("is_owned"),
    select(Chatroom.model).where(*IS_OWN).scalar_subquery().label("model"),
    exists()
    .where(IdempotencyKey.user_id == bindparam("user"), IdempotencyKey.key == bindparam("idempotency_key"))
    .label("is_known"),
)

ANSWERED_COLUMNS = (  # kept of an ended reply that was sent in an answer
    *("status", "text", "error_code", "finish_reason", "model", "completed_at", "passed_on", "superseded"),
    *("prompt_tokens", "output_tokens", "thinking_tokens", "cached_tokens", "total_tokens"),
    *("messages_sent", "messages_omitted"),
)
TYPES: dict[str, Callable[[Any], Any]] = {  # of the columns that JSON keeps as text
    "status": Status,
    "error_code": ErrorCode,
    "finish_reason": FinishReason,
    "completed_at": datetime.fromisoformat,
}


class MessageNotEditable(AppError):
    """It is a reply, it is superseded, or a reply of its room is under way."""

    status, code = HTTPStatus.CONFLICT, "message_not_editable"
    detail = "Only a prompt of the current conversation can be edited, and only while no reply is under way."


@dataclass(frozen=True)
class Accepted:
    """A prompt, its reply and what is left of the day.

    waits_until: until when the answer may wait for the reply's end. replayed: whether the Idempotency-Key came again.
    """

    message: Message
    reply: Message
    usage: Usage
    waits_until: datetime | None
    idempotency_key: str | None
    replayed: bool = False


def accept_prompt(
    user_id: UUID,
    chatroom_id: UUID,
    text: str,
    *,
    streamed: bool = False,
    wait_seconds: int = 0,
    idempotency_key: str | None = None,
    fingerprint: str = "",
    edited_id: UUID | None = None,
    now: datetime,
) -> Accepted:
    """Store a prompt with its pending reply, spend a prompt of the day, and queue the generation.

    All of it happens while the user's row is locked, so a user's requests run one after the other.
    streamed: whether the reply comes piece by piece. wait_seconds: how long the caller will wait for its end.
    fingerprint: must be the same if the Idempotency-Key comes again; a repeated request waits no longer than the first.
    edited_id: an earlier prompt of the room, which this one replaces.
    Raises TokenRevoked, NotFound, ModelNotInTier, MessageNotEditable, QuotaExceeded, IdempotencyKeyReused,
    redis.RedisError; then nothing was stored or spent.
    """
    require_redis()
    waits_until = now + timedelta(seconds=wait_seconds) if wait_seconds else None
    with transaction(respond_first=not wait_seconds) as tx:
        user = require_locked_user(user_id)
        key = mobile_key(user.mobile)
        parameters = usage_values(user, key, now) | {"room": chatroom_id, "idempotency_key": idempotency_key}
        admission = db.session.execute(ADMISSION, parameters).one()
        usage = read_usage(admission, now)
        earlier = find_record(user_id, idempotency_key or "", fingerprint, now) if admission.is_known else None
        if not admission.is_owned:
            raise NotFound
        if earlier is not None:
            prompt, reply = rebuild_exchange(earlier, chatroom_id, text, streamed=streamed)
            first_waits_until = None if earlier.answered_with_reply else earlier.waits_until
            waits_until = min(waits_until, first_waits_until) if waits_until and first_waits_until else None
            return Accepted(prompt, reply, usage, waits_until, idempotency_key, replayed=True)
        require_model(admission.model, usage.tier)
        if edited_id is not None:
            supersede_prompt(user_id, chatroom_id, edited_id)
        usage = spend_prompt(key, usage)
        prompt, reply = new_exchange(chatroom_id, text, streamed=streamed, now=now)
        charge, record = new_charge(user_id, key, reply.id, usage.tier, now), None
        if idempotency_key:
            record = IdempotencyKey(user_id=user_id, key=idempotency_key, fingerprint=fingerprint, created_at=now)
            record.prompt_id, record.waits_until, record.answered_with_reply = prompt.id, waits_until, False
        if not state.enqueue(tx, prompt, reply, charge, record):
            raise NotFound  # it has just been deleted
        tx.after_commit(lambda: invalidate_list(user_id))
    return Accepted(prompt, reply, usage, waits_until, idempotency_key)


def rebuild_exchange(
    earlier: IdempotencyKey, chatroom_id: UUID, text: str, *, streamed: bool
) -> tuple[Message, Message]:
    """Rebuild the prompt and reply of the first answer from the repeated request, whatever has become of them since.

    Raises NotFound when the chatroom has just been deleted.
    """
    replies = select(Message.in_reply_to, Message.id, Message.created_at).order_by(Message.position)
    stored = db.session.execute(replies.where(Message.in_reply_to == earlier.prompt_id).limit(1)).first()
    if stored is None:
        raise NotFound
    prompt, reply = new_exchange(chatroom_id, text, streamed=streamed, now=stored.created_at)
    prompt.id, reply.id, reply.in_reply_to = stored.in_reply_to, stored.id, stored.in_reply_to
    return prompt, as_answered(reply, earlier)


def as_answered(reply: Message, first: IdempotencyKey) -> Message:
    """Give a reply, as it was accepted, the end that the first answer had, if it had one."""
    for name, value in (first.reply or {}).items():
        setattr(reply, name, TYPES[name](value) if name in TYPES and value is not None else value)
    return reply


def supersede_prompt(user_id: UUID, chatroom_id: UUID, prompt_id: UUID) -> None:
    """Take a prompt out of the current conversation, with all turns after it. Raises NotFound, MessageNotEditable."""
    edited = get_message(user_id, chatroom_id, prompt_id)
    if edited.role is not Role.USER or edited.superseded or not supersede(chatroom_id, edited.position):
        raise MessageNotEditable


@contextmanager
def acquire_wait_slot(seconds: int) -> Iterator[int]:
    """Hold the request during the block. Yields how long it may wait: not at all if the process holds many."""
    max_waits = max(1, settings().streams_allowed // 2)  # so that waits alone never keep streams out
    with held_request("replies", at_most=max_waits if seconds else 0) as has_slot:
        yield seconds if has_slot else 0


def wait_for_reply(user_id: UUID, accepted: Accepted, *, now: datetime) -> Accepted:
    """Wait until the reply has ended, but no longer than `accepted.waits_until`. Returns `accepted` with that reply.

    Holds no connection. The wait also ends when the chatroom is deleted or this process is about to end. With an
    Idempotency-Key, a reply that has not ended is returned as it was accepted, because repeated requests get that too.
    Without PostgreSQL it tries again until the time is up: the prompt was accepted all the same.
    """
    if accepted.waits_until is None:
        return accepted
    reply, usage = accepted.reply, accepted.usage

    def load() -> Message:
        try:
            return get_message(user_id, accepted.reply.chatroom_id, accepted.reply.id)
        finally:
            release_connection()  # a lost one too: the session would refuse the next query

    try:
        reply = wait_until_final(reply, load, seconds=(accepted.waits_until - now).total_seconds())
        if accepted.idempotency_key:
            reply = note_answer(user_id, accepted, reply)
        accepted = replace(accepted, reply=reply)
        ended_at = utc_now()
        if reply.status in {Status.FAILED, Status.CANCELED} or ended_at >= usage.resets_at:  # perhaps refunded
            usage = usage_today(user_id, now=ended_at)
        accepted = replace(accepted, usage=replace(usage, now=ended_at))
    except (NotFound, TokenRevoked):
        pass
    except TRANSIENT_DATABASE_ERRORS as error:
        log_database_error(log, "a request stopped waiting for its reply", error)
        release_connection()
    return accepted


def note_answer(user_id: UUID, accepted: Accepted, reply: Message) -> Message:
    """Keep what the first answer says of the reply, and return that: later copies of the request are answered alike.

    A copy that asked for a shorter wait may be answered before the first request, and then without the reply. That says
    nothing about the first answer.
    """
    own = (IdempotencyKey.user_id == user_id, IdempotencyKey.key == accepted.idempotency_key)
    statement = update(IdempotencyKey).where(*own, ~IdempotencyKey.answered_with_reply)
    if reply.status.is_final:
        answered = {name: getattr(reply, name) for name in ANSWERED_COLUMNS}
        answered["completed_at"] = reply.completed_at and reply.completed_at.isoformat()
        statement = statement.where(IdempotencyKey.waits_until.is_not(None))  # null: answered without the reply
        statement = statement.values(answered_with_reply=True, reply=answered)
    else:
        statement = statement.where(IdempotencyKey.waits_until == accepted.waits_until).values(waits_until=None)
    with transaction():
        is_first = db.session.scalar(statement.returning(IdempotencyKey.key)) is not None
        first = None if is_first else db.session.scalar(select(IdempotencyKey).where(*own))
    if first is not None:
        return as_answered(accepted.reply, first)
    return reply if reply.status.is_final else accepted.reply


def list_messages(
    user_id: UUID, chatroom_id: UUID, *, limit: int, cursor: str | None, with_superseded: bool
) -> Page[Message]:
    """A page of the chatroom's messages, newest first. Raises NotFound, InvalidCursor."""
    get_chatroom(user_id, chatroom_id)
    before = decode_cursor(cursor, parse_position)[0] if cursor is not None else None
    return messages_before(chatroom_id, limit, before, with_superseded=with_superseded)


def open_room(user_id: UUID, chatroom_id: UUID) -> tuple[Chatroom, Page[Message]]:
    """A chatroom with its latest messages, newest first. Raises NotFound."""
    room = get_chatroom(user_id, chatroom_id)
    return room, messages_before(chatroom_id, ROOM_PAGE_SIZE)


def messages_before(
    chatroom_id: UUID, limit: int, before: int | None = None, with_superseded: bool = False
) -> Page[Message]:
    """Up to `limit` messages of a chatroom, newest first: those before the position `before`, or the latest."""
    listed = select(Message).where(Message.chatroom_id == chatroom_id)
    if not with_superseded:
        listed = listed.where(~Message.superseded)
    if before is not None:
        listed = listed.where(Message.position < before)
    rows = db.session.scalars(listed.order_by(Message.position.desc()).limit(limit + 1)).all()
    return cut_page(rows, limit, lambda message: encode_cursor(message.position))


def parse_position(text: str) -> int:
    """A position within a room. Raises ValueError."""
    position = int(text)
    if not 0 <= position < 2**31:
        raise ValueError(text)
    return position
