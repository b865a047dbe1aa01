"""Use cases of chatrooms."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from app.billing.tier import tier_of
from app.chatrooms import queries
from app.chatrooms.idempotency import find_record, fingerprint_of
from app.chatrooms.list_cache import forget_list, invalidate_list
from app.chatrooms.models import Chatroom, IdempotencyKey, Message, TitleSource
from app.chatrooms.offer import require_model
from app.core.db import db
from app.core.errors import NotFound
from app.core.ids import new_id
from app.core.schemas import Page, cut_page, decode_cursor, encode_cursor
from app.core.transactions import transaction
from app.users.service import require_locked_user

PURGE = "account.purge"  # deletes for good what is hidden here; beat asks for it as well
FLAGS = ("other", "pinned")  # in a cursor of the list


def create_chatroom(
    user_id: UUID,
    title: str | None,
    *,
    instruction: str | None = None,
    model: str | None = None,
    idempotency_key: str | None = None,
    now: datetime,
) -> tuple[Chatroom, bool]:
    """Open a chatroom of the user's; it, and whether it was opened before under the same Idempotency-Key.

    Then it is as it was answered with, whatever became of it. Raises TokenRevoked when the account is gone,
    ModelNotInTier, IdempotencyKeyReused.
    """
    fingerprint = fingerprint_of("POST /chatroom", json.dumps([title, instruction, model]))
    with transaction() as current:
        require_locked_user(user_id)
        known = find_record(user_id, idempotency_key, fingerprint, now) if idempotency_key else None
        if known is None and model is not None:
            require_model(model, tier_of(user_id, now))
        opened_at = known.created_at if known else now
        room = Chatroom(user_id=user_id, created_at=opened_at, updated_at=opened_at, last_prompt_at=opened_at)
        room.id = (known.chatroom_id if known else None) or new_id()
        room.title, room.title_source = title, TitleSource.USER if title else None
        room.instruction, room.model, room.pinned, room.archived = instruction, model, False, False
        if known is not None:
            return room, True
        db.session.add(room)
        if idempotency_key:
            record = {"key": idempotency_key, "fingerprint": fingerprint, "chatroom_id": room.id}
            db.session.add(IdempotencyKey(user_id=user_id, created_at=now, **record))
        current.after_commit(lambda: invalidate_list(user_id))
    return room, False


def list_chatrooms(user_id: UUID, *, limit: int, cursor: str | None, archived: bool = False) -> Page[Chatroom]:
    """A page of the user's chatrooms: pinned ones first, then latest prompt (or creation) first.

    archived: of those that are, and of no others. Raises InvalidCursor.
    """
    after = None
    if cursor is not None:
        pinned, moment, room_id = decode_cursor(cursor, parse_pinned, parse_moment, UUID)
        after = (pinned, moment, room_id)
    rows = queries.list_chatrooms(user_id, limit=limit + 1, after=after, archived=archived)
    return cut_page(rows, limit, cursor_behind)


def cursor_behind(room: Chatroom) -> str:
    return encode_cursor(FLAGS[room.pinned], room.last_prompt_at.isoformat(), room.id)


def parse_pinned(text: str) -> bool:
    """Whether the chatroom of a cursor was pinned. Raises ValueError."""
    if text not in FLAGS:
        raise ValueError(text)
    return text == "pinned"


def parse_moment(text: str) -> datetime:
    """An aware time out of a cursor. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment.astimezone(UTC)  # PostgreSQL knows fewer offsets than Python


def get_chatroom(user_id: UUID, chatroom_id: UUID) -> Chatroom:
    """The user's chatroom. Raises NotFound, for somebody else's too."""
    room = queries.find_chatroom(user_id, chatroom_id)
    if room is None:
        raise NotFound
    return room


def change_chatroom(user_id: UUID, chatroom_id: UUID, changes: dict[str, Any], *, now: datetime) -> Chatroom:
    """Write these fields of the user's chatroom. Raises NotFound, ModelNotInTier."""
    if "title" in changes:
        changes = changes | {"title_source": TitleSource.USER}
    with transaction() as current:
        if changes.get("model") is not None:
            get_chatroom(user_id, chatroom_id)
            require_model(changes["model"], tier_of(user_id, now))
        room = queries.update_chatroom(user_id, chatroom_id, changes, now)
        if room is None:
            raise NotFound
        current.after_commit(lambda: invalidate_list(user_id))
    return room


def delete_chatroom(user_id: UUID, chatroom_id: UUID, *, now: datetime) -> None:
    """Hide the user's chatroom from everybody at once; a task deletes it with all its messages. Raises NotFound."""
    with transaction() as current:
        if not queries.disown_chatroom(user_id, chatroom_id, now):
            raise NotFound
        current.after_commit(lambda: forget_list(user_id))
        current.enqueue_after_commit(PURGE)


def get_message(user_id: UUID, chatroom_id: UUID, message_id: UUID) -> Message:
    """A message of the user's chatroom, as it is now. Raises NotFound."""
    message = queries.find_message(user_id, chatroom_id, message_id)
    if message is None:
        raise NotFound
    return message
