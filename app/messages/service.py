"""Use cases of a client: send a prompt, read a room."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app.billing.tier import tier_of
from app.chatrooms import queries
from app.chatrooms.list_cache import invalidate_list
from app.chatrooms.models import Chatroom, Message, Role, Status
from app.chatrooms.queries import reserve_positions
from app.chatrooms.service import get_chatroom
from app.core.db import db
from app.core.errors import NotFound
from app.core.ids import new_id, request_id
from app.core.redis import require_redis
from app.core.schemas import Page, cut_page, decode_cursor, encode_cursor
from app.core.transactions import transaction
from app.generation.state import enqueue_reply
from app.messages import idempotency
from app.quota.usage import Usage, spend_prompt, usage_of
from app.users.service import require_locked_user

ROOM_PAGE_SIZE = 50


@dataclass(frozen=True)
class Accepted:
    """A prompt, its reply and what is left of the day.

    waits_until: how long the answer may wait for the reply's end. replayed: the Idempotency-Key came again.
    ended: the answer brings the reply as it ended.
    """

    message: Message
    reply: Message
    usage: Usage
    waits_until: datetime | None
    idempotency_key: str | None
    replayed: bool = False
    ended: bool = False


def accept_prompt(
    user_id: UUID,
    chatroom_id: UUID,
    text: str,
    *,
    streamed: bool = False,
    wait_seconds: int = 0,
    idempotency_key: str | None = None,
    fingerprint: str = "",
    now: datetime,
) -> Accepted:
    """Store a prompt with its pending reply, spend a prompt of the day, and queue the generation.

    All of it happens while the user's row is locked, so of parallel requests one after the other.
    streamed: whether the reply is to be had piece by piece. wait_seconds: how long the caller will wait for its end.
    fingerprint: what an Idempotency-Key may come again with; such a copy waits no longer than the first request does.
    Raises TokenRevoked, NotFound, QuotaExceeded, IdempotencyKeyReused, redis.RedisError; then nothing was stored
    or spent.
    """
    require_redis()
    waits_until = now + timedelta(seconds=wait_seconds) if wait_seconds else None
    with transaction() as current:
        user = require_locked_user(user_id)
        tier = tier_of(user_id, now)
        if idempotency_key and (known := idempotency.find(user_id, idempotency_key, fingerprint, now)):
            usage = usage_of(user, tier, now)
            waits_until = min(waits_until, known.waits_until) if waits_until and known.waits_until else None
            return Accepted(known.prompt, known.reply, usage, waits_until, idempotency_key, True, known.ended)
        position = reserve_positions(chatroom_id, user_id, 2, now)
        if position is None:
            raise NotFound
        prompt, reply = new_turn(chatroom_id, position, text, streamed=streamed, now=now)
        usage = spend_prompt(user, tier, reply.id, now)
        if idempotency_key:
            idempotency.remember(
                user_id, idempotency_key, fingerprint, prompt_id=prompt.id, waits_until=waits_until, now=now
            )
        current.after_commit(lambda: invalidate_list(user_id))
        enqueue_reply(current, reply.id)
    return Accepted(prompt, reply, usage, waits_until, idempotency_key)


def new_turn(chatroom_id: UUID, position: int, text: str, *, streamed: bool, now: datetime) -> tuple[Message, Message]:
    """A prompt and its pending reply, in the session."""
    prompt = Message(
        id=new_id(),
        chatroom_id=chatroom_id,
        position=position,
        role=Role.USER,
        text=text,
        status=Status.COMPLETED,
        created_at=now,
        completed_at=now,
    )
    reply = Message(
        id=new_id(),
        chatroom_id=chatroom_id,
        position=position + 1,
        role=Role.MODEL,
        status=Status.QUEUED,
        in_reply_to=prompt.id,
        created_at=now,
        streamed=streamed,
        accepted_at=now,
        enqueued_at=now,
        request_id=request_id(),
    )
    db.session.add(prompt)
    db.session.flush()
    db.session.add(reply)
    db.session.flush()
    return prompt, reply


def fingerprint_of(*parts: str) -> str:
    """What makes two requests the same one."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def list_messages(user_id: UUID, chatroom_id: UUID, *, limit: int, cursor: str | None) -> Page[Message]:
    """A page of the chatroom's messages, newest first. Raises NotFound, InvalidCursor."""
    get_chatroom(user_id, chatroom_id)
    before = decode_cursor(cursor, parse_position)[0] if cursor is not None else None
    rows = queries.list_messages(chatroom_id, limit=limit + 1, before=before)
    return cut_page(rows, limit, lambda message: encode_cursor(message.position))


def open_room(user_id: UUID, chatroom_id: UUID) -> tuple[Chatroom, Page[Message]]:
    """A chatroom with its latest messages, newest first. Raises NotFound."""
    room = get_chatroom(user_id, chatroom_id)
    rows = queries.list_messages(chatroom_id, limit=ROOM_PAGE_SIZE + 1, before=None)
    return room, cut_page(rows, ROOM_PAGE_SIZE, lambda message: encode_cursor(message.position))


def parse_position(text: str) -> int:
    """A position within a room. Raises ValueError."""
    position = int(text)
    if not 0 <= position < 2**31:
        raise ValueError(text)
    return position
