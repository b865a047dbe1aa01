"""A user's data as one JSON document, streamed in pieces.

However long the conversations are, only one piece at a time is in memory, and no database connection is held while the
client reads. Rows come in an order that never changes; those written during the export may be in it or not.
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
from app.auth.schemas import ApiKeyOut, SecurityEventOut, SessionOut, UserOut
from app.auth.sessions import list_keys, list_sessions
from app.billing.tier import export_subscriptions
from app.chatrooms.models import Chatroom, Message
from app.chatrooms.schemas import ChatroomOut
from app.core.admission import SLOT_SECONDS, Slot, held_request, user_slot
from app.core.db import db
from app.core.errors import RETRY_AFTER_SECONDS, RateLimited, ServiceUnavailable
from app.core.schemas import Schema
from app.core.transactions import release_connection
from app.messages.schemas import MessageOut
from app.users.models import User

log = logging.getLogger(__name__)

EXPORTS_PER_PROCESS = 2  # each holds a thread for as long as its client reads
ROOMS_AT_ONCE = 50
MESSAGES_AT_ONCE = 200

Row = TypeVar("Row")


def chatrooms_after(user_id: UUID, after: UUID, *, limit: int) -> list[Chatroom]:
    """The user's chatrooms after the id `after`, ordered by id; none once the account is deleted."""
    statement = select(Chatroom).join(User, User.id == Chatroom.user_id)
    statement = statement.where(Chatroom.user_id == user_id, User.mobile.is_not(None), Chatroom.id > after)
    return list(db.session.scalars(statement.order_by(Chatroom.id).limit(limit)))


def messages_after(chatroom_id: UUID, position: int, *, limit: int) -> list[Message]:
    """The chatroom's messages after a position, oldest first; none once the chatroom or the account is deleted."""
    owned = select(Chatroom.id).join(User, User.id == Chatroom.user_id)
    owned = owned.where(Chatroom.id == chatroom_id, User.mobile.is_not(None))
    later = (Message.chatroom_id == chatroom_id, Message.position > position, owned.exists())
    return list(db.session.scalars(select(Message).where(*later).order_by(Message.position).limit(limit)))


@contextmanager
def export_slot(user_id: UUID) -> Iterator[Slot]:
    """Hold the user's only export slot and one of this process's few during the block.

    Raises RateLimited, ServiceUnavailable.
    """
    release_connection()  # requests that wait for a silent Redis must not use all connections up
    # The user's own slot first: a user who starts many exports at once takes none of the process's from others.
    own = f"exports:{user_id}"
    with user_slot(own, at_most=1) as slot, held_request(own, at_most=1) as is_only_one:
        if slot is None or not is_only_one:  # the slot in Redis may expire while a slow client reads
            raise RateLimited("You already have an export in progress.", retry_after=RETRY_AFTER_SECONDS)
        with held_request("exports", at_most=EXPORTS_PER_PROCESS) as has_slot:
            if not has_slot:
                log.warning("Export refused: this process is already running %d", EXPORTS_PER_PROCESS)
                raise ServiceUnavailable("Too many exports are running on this server. Try again in a few seconds.")
            yield slot


def export(user_id: UUID, session_id: UUID, slot: Slot, *, now: datetime) -> Iterator[str]:
    """Return the document in pieces. Its head is read before this returns, so a failure there is an error answer.

    Raises TokenRevoked when the user is gone.
    """
    head = {
        "user": UserOut().dump(profile(user_id, now=now)),
        "subscriptions": export_subscriptions(user_id),
        "sessions": SessionOut(many=True).dump(list_sessions(user_id, session_id, now=now)),
        "api_keys": ApiKeyOut(many=True).dump(list_keys(user_id, now=now)),
    }
    release_connection()
    return while_holding(slot, document(head, user_id, now))


def while_holding(slot: Slot, document: Iterator[str]) -> Iterator[str]:
    """Yield the pieces of a document, and renew its slot while they are read."""
    renewed_at = time.monotonic()
    for piece in document:
        yield piece
        if time.monotonic() - renewed_at > SLOT_SECONDS / 2:
            slot.renew()
            renewed_at = time.monotonic()


def document(head: dict[str, Any], user_id: UUID, now: datetime) -> Iterator[str]:
    """Yield the object `head`, extended by the user's events and chatrooms, of which there may be many."""
    read_events = partial(events_before, user_id, limit=MESSAGES_AT_ONCE, now=now)
    yield f'{compact(head)[:-1]},"security_events":['
    yield from json_array_items(SecurityEventOut(), read_batches(read_events, None, attrgetter("id")))
    yield '],"chatrooms":['
    read_rooms = partial(chatrooms_after, user_id, limit=ROOMS_AT_ONCE)
    rooms = chain.from_iterable(read_batches(read_rooms, UUID(int=0), attrgetter("id")))
    for index, room in enumerate(rooms):
        yield f'{"," if index else ""}{compact(ChatroomOut().dump(room))[:-1]},"messages":['
        read_messages = partial(messages_after, room.id, limit=MESSAGES_AT_ONCE)
        if room.turns:  # queries for ten thousand empty chatrooms took a minute
            yield from json_array_items(MessageOut(), read_batches(read_messages, -1, attrgetter("position")))
        yield "]}"
    yield "]}"


def read_batches(read: Callable[[Any], list[Row]], start: Any, key: Callable[[Row], Any]) -> Iterator[list[Row]]:
    """Yield all rows in batches. read: gets the key of the last row so far (at first `start`), returns the next batch.

    No connection is held while the caller uses a batch, nor afterwards.
    """
    last = start
    while rows := read(last):
        last = key(rows[-1])
        release_connection()
        yield rows
    release_connection()


def json_array_items(schema: Schema, batches: Iterable[list[Any]]) -> Iterator[str]:
    """Yield the inside of a JSON array of the rows, a batch at a time."""
    separator = ""
    for rows in batches:
        yield separator + ",".join(compact(schema.dump(row)) for row in rows)
        separator = ","


def compact(value: Any) -> str:
    """JSON without spaces, and with non-ASCII characters unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
