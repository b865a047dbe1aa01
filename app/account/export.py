"""All that there is about a user, as one JSON document, written piece by piece.

However long the conversations are, a piece at a time is in memory, and no database connection is held while the
client reads. Pieces come in an order that does not change meanwhile; what is written meanwhile may be in it or not.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import select

from app.account.service import profile
from app.auth.events import events_before
from app.auth.keys import list_keys
from app.auth.schemas import ApiKeyOut, SecurityEventOut, SessionOut, UserOut
from app.auth.sessions import list_sessions
from app.billing.tier import export_subscriptions
from app.chatrooms.models import Chatroom, Message
from app.chatrooms.schemas import ChatroomOut
from app.core.db import db
from app.core.errors import RETRY_AFTER_SECONDS, RateLimited, ServiceUnavailable
from app.core.schemas import Schema
from app.core.slots import SLOT_SECONDS, Slot, held_request, user_slot
from app.core.transactions import release_connection
from app.messages.schemas import MessageOut
from app.users.models import User

log = logging.getLogger(__name__)

EXPORTS_PER_PROCESS = 2  # each holds a thread for as long as its client reads
ROOMS_AT_ONCE = 50
MESSAGES_AT_ONCE = 200

Row = TypeVar("Row")


def chatrooms_after(user_id: UUID, after: UUID, *, at_most: int) -> list[Chatroom]:
    """The user's chatrooms after the id `after`, in the order of their ids; none once the account is deleted."""
    statement = select(Chatroom).join(User, User.id == Chatroom.user_id)
    statement = statement.where(Chatroom.user_id == user_id, User.mobile.is_not(None), Chatroom.id > after)
    return list(db.session.scalars(statement.order_by(Chatroom.id).limit(at_most)))


def messages_after(chatroom_id: UUID, position: int, *, at_most: int) -> list[Message]:
    """The chatroom's messages after a position, oldest first; none once the chatroom or the account is deleted."""
    owned = select(Chatroom.id).join(User, User.id == Chatroom.user_id)
    owned = owned.where(Chatroom.id == chatroom_id, User.mobile.is_not(None))
    later = (Message.chatroom_id == chatroom_id, Message.position > position, owned.exists())
    return list(db.session.scalars(select(Message).where(*later).order_by(Message.position).limit(at_most)))


@contextmanager
def export_slot(user_id: UUID) -> Iterator[Slot]:
    """Hold the user's only export, one of a few of this process, during the block.

    Raises RateLimited, ServiceUnavailable.
    """
    release_connection()  # while Redis is silent, waits for it must not use them all up
    # The user's own first: who asks for many at once takes no slot from others meanwhile.
    own = f"exports:{user_id}"
    with user_slot(own, at_most=1) as slot, held_request(own, at_most=1) as is_only_one:
        if slot is None or not is_only_one:  # a client that reads slowly outlasts the slot in Redis
            raise RateLimited("Another export of yours is under way.", retry_after=RETRY_AFTER_SECONDS)
        with held_request("exports", at_most=EXPORTS_PER_PROCESS) as has_slot:
            if not has_slot:
                log.warning("An export is refused: %d are under way in this process", EXPORTS_PER_PROCESS)
                raise ServiceUnavailable("Too many exports are under way on this server. Try again in a few seconds.")
            yield slot


def export(user_id: UUID, session_id: UUID, slot: Slot, *, now: datetime) -> Iterator[str]:
    """The document in pieces; the first is ready when this returns, so what fails at once is an error answer.

    Raises TokenRevoked when the user is gone.
    """
    head = {
        "user": UserOut().dump(profile(user_id, now=now)),
        "subscriptions": export_subscriptions(user_id),
        "sessions": SessionOut(many=True).dump(list_sessions(user_id, session_id, now=now)),
        "api_keys": ApiKeyOut(many=True).dump(list_keys(user_id, now=now)),
    }
    release_connection()
    return keeping(slot, document(head, user_id, now))


def keeping(slot: Slot, document: Iterator[str]) -> Iterator[str]:
    """The pieces of a document, whose slot is kept while they are read."""
    kept_at = time.monotonic()
    for piece in document:
        yield piece
        if time.monotonic() - kept_at > SLOT_SECONDS / 2:
            slot.keep()
            kept_at = time.monotonic()


def document(head: dict[str, Any], user_id: UUID, now: datetime) -> Iterator[str]:
    """The object `head` with the user's events and chatrooms, which may be many."""
    read_events = partial(events_before, user_id, at_most=MESSAGES_AT_ONCE, now=now)
    yield f'{compact(head)[:-1]},"security_events":['
    yield from array(SecurityEventOut(), pieces(read_events, None, attrgetter("id")))
    yield '],"chatrooms":['
    read_rooms = partial(chatrooms_after, user_id, at_most=ROOMS_AT_ONCE)
    rooms = chain.from_iterable(pieces(read_rooms, UUID(int=0), attrgetter("id")))
    for number, room in enumerate(rooms):
        yield f'{"," if number else ""}{compact(ChatroomOut().dump(room))[:-1]},"messages":['
        read_messages = partial(messages_after, room.id, at_most=MESSAGES_AT_ONCE)
        yield from array(MessageOut(), pieces(read_messages, -1, attrgetter("position")))
        yield "]}"
    yield "]}"


def pieces(read: Callable[[Any], list[Row]], start: Any, key: Callable[[Row], Any]) -> Iterator[list[Row]]:
    """All rows, some at a time: `read` is given the key of the row before, at first `start`.

    No connection is held while the caller has them, nor afterwards.
    """
    last = start
    while rows := read(last):
        last = key(rows[-1])
        release_connection()
        yield rows
    release_connection()


def array(schema: Schema, rows_at_once: Iterable[list[Any]]) -> Iterator[str]:
    """The inside of a JSON array of the rows, some at a time."""
    separator = ""
    for rows in rows_at_once:
        yield separator + ",".join(compact(schema.dump(row)) for row in rows)
        separator = ","


def compact(value: Any) -> str:
    """JSON without spaces; characters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
