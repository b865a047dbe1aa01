"""Following a reply as it is written.

Pieces come from the reply's Redis stream, and what Redis has lost comes from PostgreSQL in the end. A place is
an attempt and a number of characters, so a resume is a slice of the text; another attempt, or a text that does
not continue what was sent, begins with `reset`.

A client that follows a reply: its slot, its session, and the events until the reply ends or nobody listens.

`Prefer: wait`: a request that is held until its reply has ended.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import redis
from flask import current_app

from app.chatrooms.models import Message, Status
from app.chatrooms.service import get_message
from app.core.auth import TokenRevoked, current_session_check
from app.core.db import DATABASE_GAVE_UP, log_database_error
from app.core.errors import NotFound
from app.core.http import is_draining
from app.core.redis import redis_client
from app.core.settings import settings
from app.core.transactions import release_connection
from app.streaming import events as reply_stream
from app.streaming.slots import open_slot

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
LOOK_AGAIN_SECONDS = 15.0  # how long the end of a session or of a chatroom may go unnoticed
SLICE_SECONDS = 2.0  # how long a drain or a client that hangs up may go unnoticed
WITHOUT_REDIS_SECONDS = 1.0
WITHOUT_DATABASE_SECONDS = 1.0

Name = Literal["status", "delta", "reset", "completed", "failed", "canceled", "reconnect"]

FINAL_NAMES: dict[Status, Name] = {
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELED: "canceled",
}


@dataclass(frozen=True)
class Place:
    """How far a client has come: characters of an attempt's text."""

    attempt: int
    chars: int

    @classmethod
    def parse(cls, event_id: str) -> "Place | None":
        """The place that an event's id names; None for anything else."""
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", event_id)
        return cls(int(match[1]), int(match[2])) if match else None

    def __str__(self) -> str:
        return f"{self.attempt}:{self.chars}"


@dataclass(frozen=True)
class Event:
    """Something to tell the client. `message`: of the final events; `text`: of a delta; `status`: of a status."""

    name: Name
    place: Place | None
    text: str = ""
    status: Status | None = None
    message: Message | None = None


class Follower:
    """Follows one reply for one client.

    load: reads the reply anew and holds no connection afterwards; raises NotFound when it is gone.
    client: a blocking one, for the reply's stream. Nothing here needs an application context.
    leaving: whether this process is about to end. hung_up: whether the client is gone. wait: lets time pass while
    Redis is unavailable.
    """

    def __init__(
        self,
        load: Callable[[], Message],
        place: Place | None,
        *,
        client: redis.Redis,
        leaving: Callable[[], bool],
        hung_up: Callable[[], bool] = lambda: False,
        wait: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.load = load
        self.place = place
        self.client = client
        self.leaving = leaving
        self.hung_up = hung_up
        self.wait = wait
        self.monotonic = monotonic
        self.status: Status | None = None
        self.last_id = reply_stream.FROM_THE_START

    def follow(self) -> Iterator[Event | None]:
        """The events, up to a final one or `reconnect`; None is a sign of life while nothing happens.

        They end without one when the client has hung up.
        """
        message = self.load()
        last_word = looked = self.monotonic()
        yield from self.status_event(message.status)
        while not message.status.is_final:
            if self.leaving():
                yield Event("reconnect", self.place)
                return
            if self.hung_up():
                return
            entries = self.read(message)
            new = [event for entry in entries or () for event in self.events_for(entry)]
            yield from new
            now = self.monotonic()
            last_word = now if new else last_word
            if now - last_word >= HEARTBEAT_SECONDS:
                yield None
                last_word = now
            if entries is None or any(entry.is_end for entry in entries) or now - looked >= LOOK_AGAIN_SECONDS:
                message, looked = self.look_again(message), now
                if not message.status.is_final:
                    yield from self.status_event(message.status)
        yield from self.remaining_events(message)

    def look_again(self, message: Message) -> Message:
        """The reply as it is now; as it was known, a little later, when PostgreSQL does not answer."""
        try:
            return self.load()
        except DATABASE_GAVE_UP as error:
            log_database_error(log, "a reply that is followed is looked at again", error)
            self.wait(WITHOUT_DATABASE_SECONDS)
            self.last_id = reply_stream.FROM_THE_START  # what it tells of an end must be seen again
            return message

    def read(self, message: Message) -> list[reply_stream.Entry] | None:
        """What is new in the stream, up to SLICE_SECONDS later; None when Redis is unavailable."""
        try:
            self.last_id, entries = reply_stream.read(self.client, message.id, self.last_id, seconds=SLICE_SECONDS)
        except redis.RedisError:
            self.wait(WITHOUT_REDIS_SECONDS)
            return None
        return [entry for entry in entries if entry.attempt >= message.attempt]

    def status_event(self, status: Status) -> Iterator[Event]:
        if status is not self.status and not status.is_final:
            self.status = status
            yield Event("status", self.place, status=status)

    def events_for(self, entry: reply_stream.Entry) -> Iterator[Event]:
        """What an entry of the stream means for this client."""
        if entry.status is not None:
            yield from self.status_event(entry.status)
            return
        if self.place is None or self.place.attempt < entry.attempt:
            if self.place is not None and self.place.chars:
                yield Event("reset", Place(entry.attempt, 0))
            self.place = Place(entry.attempt, 0)
        begins = entry.offset - len(entry.piece)
        if self.place.attempt == entry.attempt and begins <= self.place.chars < entry.offset:
            text = entry.piece[self.place.chars - begins :]
            self.place = Place(entry.attempt, entry.offset)
            yield Event("delta", self.place, text=text)

    def remaining_events(self, message: Message) -> Iterator[Event]:
        """What the client lacks of the stored text, and how it ended."""
        text = message.text or ""
        place = self.place or Place(message.attempt, 0)
        continues = place.attempt == message.attempt and place.chars <= len(text) and message.status != Status.FAILED
        if not continues:
            if place.chars:
                yield Event("reset", Place(message.attempt, 0))
            place = Place(message.attempt, 0)
        if text[place.chars :]:
            yield Event("delta", Place(message.attempt, len(text)), text=text[place.chars :])
        yield Event(FINAL_NAMES[message.status], Place(message.attempt, len(text)), message=message)


@contextmanager
def follow_reply(
    user_id: UUID, chatroom_id: UUID, reply_id: UUID, *, place: Place | None, hung_up: Callable[[], bool]
) -> Iterator[Iterator[Event | None]]:
    """The reply's events from `place` on, for as long as the block lasts; None is a sign of life.

    They just end when the reply is deleted, when the user's session ends, and when the client has hung up. Held
    without a database connection. Raises NotFound, TooManyStreams, ServiceUnavailable.
    """
    get_message(user_id, chatroom_id, reply_id)
    release_connection()
    chosen = settings()
    with open_slot(user_id, per_user=chosen.streams_per_user, per_process=chosen.streams_per_process) as slot:
        app, is_session_active = current_app._get_current_object(), current_session_check()  # type: ignore[attr-defined]

        def load() -> Message:
            slot.keep()
            with app.app_context():  # and the connection goes back with it
                if not is_session_active():
                    raise TokenRevoked
                return get_message(user_id, chatroom_id, reply_id)

        follower = Follower(load, place, client=redis_client(blocking=True), leaving=is_draining, hung_up=hung_up)
        yield until_gone(follower)


def until_gone(follower: Follower) -> Iterator[Event | None]:
    with suppress(NotFound, TokenRevoked):
        yield from follower.follow()
