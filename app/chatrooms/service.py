"""Use cases of chatrooms, the models that they may be given, and the records of idempotency keys."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, tuple_, update
from uuid_utils.compat import uuid7

from app.billing.models import Tier
from app.billing.tier import tier_of
from app.chatrooms.list_cache import invalidate_list
from app.chatrooms.models import Chatroom, IdempotencyKey, Message, TitleSource
from app.core import settings
from app.core.db import db
from app.core.errors import AppError, NotFound
from app.core.schemas import Page, cut_page, decode_cursor, encode_cursor
from app.core.transactions import Transaction, transaction
from app.users.service import require_locked_user

PURGE = "account.purge"  # deletes for good what is hidden here; beat queues it too
KEY_LIFETIME = timedelta(hours=24)  # of an Idempotency-Key
FLAGS = ("other", "pinned")  # what False and True are called in a cursor of the list

# Built once, since most requests run them.
IS_OWN = (Chatroom.id == bindparam("room"), Chatroom.user_id == bindparam("user"))
OWN_CHATROOM = select(Chatroom).where(*IS_OWN)
OWN_MESSAGE = (
    select(Message)
    .join(Chatroom, Chatroom.id == Message.chatroom_id)
    .where(Message.id == bindparam("message"), *IS_OWN)
)
AS_STORED = {"populate_existing": True}  # overwrites what the session holds of the row


class IdempotencyKeyReused(AppError):
    """The key was used before, for a different request."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new key for a new request."


class ModelNotInTier(AppError):
    """The model is for a higher tier than the user's at this moment."""

    status, code = HTTPStatus.FORBIDDEN, "model_not_in_tier"
    detail = "This model is for Pro. Choose another one, or subscribe."


def offered_models() -> dict[str, Tier]:
    """The models by name, in the order of the setting, each with the lowest tier that may use it."""
    return {one.name: Tier(one.tier) for one in settings().gemini_models}


def chosen_model(name: str | None) -> str:
    """Return the model to use for a chatroom's choice: the default if that is None or no longer offered."""
    return name if name in offered_models() else settings().gemini_model


def require_model(name: str | None, tier: Tier) -> None:
    """Raises ModelNotInTier when a user of this tier may not use a chatroom's model."""
    if tier is not Tier.PRO and offered_models().get(chosen_model(name)) is Tier.PRO:
        raise ModelNotInTier


def create_chatroom(
    user_id: UUID,
    title: str | None,
    *,
    instruction: str | None = None,
    model: str | None = None,
    idempotency_key: str | None = None,
    now: datetime,
) -> tuple[Chatroom, bool]:
    """Open a chatroom. Returns it, and whether it had been opened before under the same Idempotency-Key.

    A repeated request gets the chatroom as the first answer had it, even if it was changed or deleted since.
    Raises TokenRevoked when the account is gone, ModelNotInTier, IdempotencyKeyReused.
    """
    fingerprint = fingerprint_of("POST /chatroom", json.dumps([title, instruction, model]))
    with transaction() as tx:
        require_locked_user(user_id)
        earlier = find_record(user_id, idempotency_key, fingerprint, now) if idempotency_key else None
        if earlier is None and model is not None:
            require_model(model, tier_of(user_id, now))
        opened_at = earlier.created_at if earlier else now
        room = Chatroom(user_id=user_id, created_at=opened_at, updated_at=opened_at, last_prompt_at=opened_at)
        room.id = (earlier.chatroom_id if earlier else None) or uuid7()
        room.title, room.title_source = title, TitleSource.USER if title else None
        room.instruction, room.model, room.pinned, room.archived = instruction, model, False, False
        if earlier is not None:
            return room, True
        db.session.add(room)
        if idempotency_key:
            record = {"key": idempotency_key, "fingerprint": fingerprint, "chatroom_id": room.id}
            db.session.add(IdempotencyKey(user_id=user_id, created_at=now, **record))
        tx.after_commit(lambda: invalidate_list(user_id))
    return room, False


def list_chatrooms(user_id: UUID, *, limit: int, cursor: str | None, archived: bool = False) -> Page[Chatroom]:
    """A page of the user's chatrooms: pinned ones first, then those with the latest prompt (or creation).

    archived: whether to list only the archived ones, or only the others. Raises InvalidCursor.
    """
    listed = select(Chatroom).where(Chatroom.user_id == user_id, Chatroom.archived.is_(archived))
    order = (Chatroom.pinned, Chatroom.last_prompt_at, Chatroom.id)
    if cursor is not None:
        flag, moment, room_id = decode_cursor(cursor, FLAGS.index, parse_moment, UUID)
        listed = listed.where(tuple_(*order) < (bool(flag), moment, room_id))
    latest_first = listed.order_by(*(column.desc() for column in order))
    return cut_page(db.session.scalars(latest_first.limit(limit + 1)).all(), limit, cursor_after)


def cursor_after(room: Chatroom) -> str:
    return encode_cursor(FLAGS[room.pinned], room.last_prompt_at.isoformat(), room.id)


def parse_moment(text: str) -> datetime:
    """Parse an aware time from a cursor. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment.astimezone(UTC)  # PostgreSQL knows fewer offsets than Python


def get_chatroom(user_id: UUID, chatroom_id: UUID, *, locked: bool = False) -> Chatroom:
    """Return the user's chatroom. Raises NotFound, for somebody else's too.

    locked: lock it until the transaction ends. Lock a chatroom before its messages, as the purge does.
    """
    statement = OWN_CHATROOM.with_for_update(key_share=True) if locked else OWN_CHATROOM
    room = db.session.scalar(statement, {"room": chatroom_id, "user": user_id}, execution_options=AS_STORED)
    if room is None:
        raise NotFound
    return room


def change_chatroom(user_id: UUID, chatroom_id: UUID, changes: dict[str, Any], *, now: datetime) -> Chatroom:
    """Write these fields of the user's chatroom. Raises NotFound, ModelNotInTier."""
    if "title" in changes:
        changes = changes | {"title_source": TitleSource.USER}
    with transaction() as tx:
        if changes.get("model") is not None:
            get_chatroom(user_id, chatroom_id)
            require_model(changes["model"], tier_of(user_id, now))
        return write_chatroom(tx, user_id, chatroom_id, changes | {"updated_at": now})


def delete_chatroom(user_id: UUID, chatroom_id: UUID, *, now: datetime) -> None:
    """Hide the user's chatroom from everybody at once; a task deletes it with all its messages. Raises NotFound."""
    with transaction() as tx:
        write_chatroom(tx, user_id, chatroom_id, {"user_id": None, "updated_at": now})
        tx.enqueue_after_commit(PURGE)


def write_chatroom(tx: Transaction, user_id: UUID, chatroom_id: UUID, values: dict[str, Any]) -> Chatroom:
    """Write these columns of the user's chatroom, and invalidate the cached list. Raises NotFound."""
    own = update(Chatroom).where(Chatroom.id == chatroom_id, Chatroom.user_id == user_id)
    room: Chatroom | None = db.session.scalar(own.values(values).returning(Chatroom), execution_options=AS_STORED)
    if room is None:
        raise NotFound
    tx.after_commit(lambda: invalidate_list(user_id))
    return room


def get_message(user_id: UUID, chatroom_id: UUID, message_id: UUID, *, locked: bool = False) -> Message:
    """Return a message of the user's chatroom, as it is now. Raises NotFound.

    locked: lock it until the transaction ends.
    """
    parameters = {"message": message_id, "room": chatroom_id, "user": user_id}
    statement = OWN_MESSAGE.with_for_update(of=Message, key_share=True) if locked else OWN_MESSAGE
    message = db.session.scalar(statement, parameters, execution_options=AS_STORED)
    if message is None:
        raise NotFound
    return message


def find_record(user_id: UUID, key: str, fingerprint: str, now: datetime) -> IdempotencyKey | None:
    """Return the record of an Idempotency-Key; None if the key is new or expired.

    A record is written in the transaction of the request itself, while the user is locked: of parallel requests, the
    first writes it and the others find it. Raises IdempotencyKeyReused for another request.
    """
    record = db.session.get(IdempotencyKey, (user_id, key))
    if record is None:
        return None
    if record.created_at <= now - KEY_LIFETIME:
        db.session.delete(record)
        db.session.flush()
        return None
    if record.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    return record


def fingerprint_of(*parts: str) -> str:
    """Return a hash that is the same for two requests which ask for the same."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
