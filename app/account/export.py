"""All that there is about a user, as one JSON document, written piece by piece.

However long the conversations are, a piece at a time is in memory, and no database connection is held while the
client reads. What is written meanwhile may be in it or not.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from app.account import queries
from app.account.service import profile
from app.auth.schemas import SessionOut
from app.auth.sessions import list_sessions
from app.billing.service import export_subscriptions
from app.chatrooms.models import Chatroom
from app.chatrooms.schemas import ChatroomOut
from app.core.database import db
from app.messages.schemas import MessageOut
from app.users.profiles import UserOut

ROOMS_AT_ONCE = 50
MESSAGES_AT_ONCE = 200


def export(user_id: UUID, session_id: UUID, *, now: datetime) -> Iterator[str]:
    """The document in pieces; the first is ready when this returns, so what fails at once is an error answer.

    Raises TokenRevoked when the user is gone.
    """
    head = {
        "user": UserOut().dump(profile(user_id, now=now)),
        "subscriptions": export_subscriptions(user_id),
        "sessions": SessionOut(many=True).dump(list_sessions(user_id, session_id, now=now)),
    }
    release_session()
    return document(head, user_id)


def document(head: dict[str, Any], user_id: UUID) -> Iterator[str]:
    yield f'{compact(head)[:-1]},"chatrooms":['
    for number, room in enumerate(chatrooms(user_id)):
        yield f'{"," if number else ""}{compact(ChatroomOut().dump(room))[:-1]},"messages":['
        separator = ""
        for piece in messages(room.id):
            yield separator + piece
            separator = ","
        yield "]}"
    yield "]}"


def chatrooms(user_id: UUID) -> Iterator[Chatroom]:
    """The user's chatrooms, oldest first."""
    last: UUID | None = None
    while rooms := queries.chatrooms_behind(user_id, last, at_most=ROOMS_AT_ONCE):
        last = rooms[-1].id
        release_session()
        yield from rooms


def messages(chatroom_id: UUID) -> Iterator[str]:
    """The chatroom's messages, oldest first, as JSON: some joined by commas at a time."""
    position = -1
    schema = MessageOut()
    while rows := queries.messages_behind(chatroom_id, position, at_most=MESSAGES_AT_ONCE):
        position = rows[-1].position
        release_session()
        yield ",".join(compact(schema.dump(row)) for row in rows)


def release_session() -> None:
    """Give the connection back and forget the rows of the session; those at hand stay readable."""
    db.session.expunge_all()
    db.session.rollback()


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
