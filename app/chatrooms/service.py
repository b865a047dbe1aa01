"""Use cases of chatrooms."""

from datetime import UTC, datetime
from uuid import UUID

from app.chatrooms import queries
from app.chatrooms.list_cache import forget_list, invalidate_list
from app.chatrooms.models import Chatroom, Message
from app.core.db import db
from app.core.errors import NotFound
from app.core.schemas import Page, cut_page, decode_cursor, encode_cursor
from app.core.transactions import transaction
from app.users.service import require_locked_user

PURGE = "account.purge"  # deletes for good what is hidden here; beat asks for it as well


def create_chatroom(user_id: UUID, title: str, *, now: datetime) -> Chatroom:
    """Open a chatroom of the user's. Raises TokenRevoked when the account is gone."""
    with transaction() as current:
        require_locked_user(user_id)
        room = Chatroom(user_id=user_id, title=title, created_at=now, updated_at=now, last_prompt_at=now)
        db.session.add(room)
        current.after_commit(lambda: invalidate_list(user_id))
    return room


def list_chatrooms(user_id: UUID, *, limit: int, cursor: str | None) -> Page[Chatroom]:
    """A page of the user's chatrooms, latest prompt (or creation) first. Raises InvalidCursor."""
    after = None
    if cursor is not None:
        moment, room_id = decode_cursor(cursor, parse_moment, UUID)
        after = (moment, room_id)
    rows = queries.list_chatrooms(user_id, limit=limit + 1, after=after)
    return cut_page(rows, limit, lambda room: encode_cursor(room.last_prompt_at.isoformat(), room.id))


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


def rename_chatroom(user_id: UUID, chatroom_id: UUID, title: str, *, now: datetime) -> Chatroom:
    """Give the user's chatroom another title. Raises NotFound."""
    with transaction() as current:
        room = queries.rename_chatroom(user_id, chatroom_id, title, now)
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
