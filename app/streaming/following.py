"""Following a reply: streams get every event, and waits need only the end.

Pieces come from the reply's Redis stream, and what Redis has lost comes from PostgreSQL at the end. A cursor is an
attempt and a number of characters, so to resume is to slice the text. Another attempt, or a text that does not continue
what was sent, begins with `reset`. Nobody holds a database connection while nothing happens.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any
from uuid import UUID

import redis
from flask import current_app

from app.chatrooms.models import Context, Message, Status
from app.chatrooms.service import get_message
from app.core import settings
from app.core.admission import held_request, user_slot
from app.core.auth import TokenRevoked, current_session_check
from app.core.db import TRANSIENT_DATABASE_ERRORS, log_database_error
from app.core.errors import RETRY_AFTER_SECONDS, NotFound, RateLimited, ServiceUnavailable
from app.core.http import is_draining
from app.core.redis import redis_client
from app.core.transactions import release_connection
from app.streaming import events

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
RELOAD_AFTER_SECONDS = 15.0  # how long the end of a session or of a chatroom may go unnoticed
SLICE_SECONDS = 2.0  # how long a drain or a client that hangs up may go unnoticed
PAUSE_SECONDS = 1.0


class TooManyStreams(RateLimited):
    """The user already follows as many replies as allowed."""

    code, detail = "too_many_streams", "Too many streams are open. Close one, or poll the reply."


@dataclass(frozen=True)
class Cursor:
    """How far a client has read: characters of an attempt's text."""

    attempt: int
    chars: int

    @classmethod
    def parse(cls, event_id: str) -> "Cursor | None":
        """The cursor that an event's id names; None for anything else."""
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", event_id)
        return cls(int(match[1]), int(match[2])) if match else None

    def __str__(self) -> str:
        return f"{self.attempt}:{self.chars}"


@dataclass(frozen=True)
class Event:
    """An event for the client, with its payload: `data`, or the `message` at the end of a reply."""

    name: str
    cursor: Cursor | None
    data: Mapping[str, Any] | None = None
    message: Message | None = None


@dataclass
class Follower:
    """Follows one reply for one client.

    message: the reply as it is now. load: reads it again and holds no connection afterwards; raises NotFound if it is
    gone, TokenRevoked if the session is. client: a blocking Redis client, for the reply's stream.
    has_hung_up: whether the client is gone. until: when to stop, on time.monotonic(). Nothing here needs an application
    context.
    """

    message: Message
    load: Callable[[], Message]
    cursor: Cursor | None
    _: KW_ONLY
    client: redis.Redis
    has_hung_up: Callable[[], bool] = lambda: False
    until: float = math.inf
    status: Status | None = field(default=None, init=False)
    context: Context | None = field(default=None, init=False)
    last_id: str = field(default=events.FROM_THE_START, init=False)
    ended_attempt: int = field(default=0, init=False)
    is_reloading: bool = field(default=False, init=False)  # PostgreSQL did not answer last time

    def follow(self) -> Iterator[Event | None]:
        """Yield the events up to a final one or `reconnect`; None is a heartbeat while nothing happens.

        Stops without either when the client has hung up, the reply or the session is gone, or the time is over.
        """
        message = self.message
        last_sent_at = reloaded_at = time.monotonic()
        yield from self.status_event(message.status)
        while not message.status.is_final:
            if is_draining():
                yield Event("reconnect", self.cursor)
                return
            if self.has_hung_up() or time.monotonic() >= self.until:
                return
            entries = self.read(message)
            new = [event for entry in entries or () for event in self.events_for(entry)]
            yield from new
            now = time.monotonic()
            last_sent_at = now if new else last_sent_at
            if now - last_sent_at >= HEARTBEAT_SECONDS:
                yield None
                last_sent_at = now
            if entries is None or any(entry.is_end for entry in entries) or now - reloaded_at >= RELOAD_AFTER_SECONDS:
                try:
                    message, reloaded_at = self.reload_message(message), now
                except (NotFound, TokenRevoked):
                    return
                if not message.status.is_final:
                    yield from self.status_event(message.status)
        yield from self.remaining_events(message)

    def reload_message(self, message: Message) -> Message:
        """Return the reply as it is now or, if PostgreSQL does not answer, as it was, after a pause."""
        try:
            message = self.load()
            self.is_reloading = False
        except TRANSIENT_DATABASE_ERRORS as error:
            if not self.is_reloading:
                log_database_error(log, "a follower will read its reply again", error)
            self.is_reloading = True
            self.pause()
            self.last_id = events.FROM_THE_START  # an end must be seen again
        return message

    def read(self, message: Message) -> list[events.Entry] | None:
        """Return what is new in the stream, waiting up to SLICE_SECONDS; None if Redis is unavailable."""
        seconds = min(SLICE_SECONDS, self.until - time.monotonic())
        try:
            self.last_id, entries = events.read(self.client, message.id, self.last_id, seconds=seconds)
        except redis.RedisError:
            self.pause()
            return None
        # Pieces of a queued reply's last attempt are stale, but an end with its number may be the reply's own.
        current = message.attempt + (message.status is Status.QUEUED)
        return [entry for entry in entries if entry.attempt >= (message.attempt if entry.is_end else current)]

    def pause(self) -> None:
        """Let time pass while Redis or PostgreSQL does not answer, but not beyond `until`."""
        time.sleep(max(0.0, min(PAUSE_SECONDS, self.until - time.monotonic())))

    def status_event(self, status: Status) -> Iterator[Event]:
        if status is not self.status and not status.is_final:
            self.status = status
            yield Event("status", self.cursor, {"status": status.value})

    def context_event(self, context: Context | None) -> Iterator[Event]:
        if context is not None and context != self.context:
            self.context = context
            yield Event("context", self.cursor, asdict(context))

    def events_for(self, entry: events.Entry) -> Iterator[Event]:
        """Yield what an entry of the stream means for this client."""
        if entry.status is not None:
            self.ended_attempt = entry.attempt if entry.is_end else self.ended_attempt
            yield from self.status_event(entry.status)
            yield from self.context_event(entry.context)
            return
        if entry.attempt <= self.ended_attempt:  # canceled, and its worker has not noticed yet
            return
        if self.cursor is None or self.cursor.attempt < entry.attempt:
            if self.cursor is not None and self.cursor.chars:
                yield Event("reset", Cursor(entry.attempt, 0))
            self.cursor = Cursor(entry.attempt, 0)
        start = entry.offset - len(entry.piece)
        if self.cursor.attempt == entry.attempt and start <= self.cursor.chars < entry.offset:
            text = entry.piece[self.cursor.chars - start :]
            self.cursor = Cursor(entry.attempt, entry.offset)
            yield Event("delta", self.cursor, {"text": text})

    def remaining_events(self, message: Message) -> Iterator[Event]:
        """Yield the part of the stored text that the client lacks, and how the reply ended."""
        text = message.text or ""
        cursor = self.cursor or Cursor(message.attempt, 0)
        continues = cursor.attempt == message.attempt and cursor.chars <= len(text) and message.status != Status.FAILED
        if not continues:
            if cursor.chars:
                yield Event("reset", Cursor(message.attempt, 0))
            cursor = self.cursor = Cursor(message.attempt, 0)
        yield from self.context_event(message.context)
        if text[cursor.chars :]:
            yield Event("delta", Cursor(message.attempt, len(text)), {"text": text[cursor.chars :]})
        yield Event(message.status.value, Cursor(message.attempt, len(text)), message=message)


@contextmanager
def follow_reply(
    user_id: UUID, chatroom_id: UUID, reply_id: UUID, *, cursor: Cursor | None, has_hung_up: Callable[[], bool]
) -> Iterator[Iterator[Event | None]]:
    """Yield an iterator of the reply's events from `cursor` on, for use within the block; None is a heartbeat.

    The events just stop when the reply is deleted, the user's session ends or the client has hung up. No database
    connection is held. Raises NotFound, TooManyStreams, ServiceUnavailable.
    """
    message = get_message(user_id, chatroom_id, reply_id)
    release_connection()
    config = settings()
    with held_request("replies", at_most=config.streams_allowed) as is_held:
        if not is_held:
            log.warning("Stream refused: STREAMS_PER_PROCESS or WEB_THREADS allows only %d", config.streams_allowed)
            raise ServiceUnavailable("Too many streams are open on this server. Try again in a few seconds.")
        with user_slot(f"streams:{user_id}", at_most=config.streams_per_user) as slot:
            if slot is None:
                raise TooManyStreams(retry_after=RETRY_AFTER_SECONDS)
            app, is_session_active = current_app._get_current_object(), current_session_check()  # type: ignore[attr-defined]

            def load() -> Message:
                slot.renew()
                with app.app_context():  # and the connection goes back with it
                    if not is_session_active():
                        raise TokenRevoked
                    return get_message(user_id, chatroom_id, reply_id)

            client = redis_client(blocking=True)
            yield Follower(message, load, cursor, client=client, has_hung_up=has_hung_up).follow()


def wait_until_final(reply: Message, load: Callable[[], Message], *, seconds: float) -> Message:
    """Return the reply once it has ended, or as it is when `seconds` are over or this process is about to end.

    load: as for a Follower.
    """
    client, until = redis_client(blocking=True), time.monotonic() + seconds
    events_until_then = Follower(reply, load, None, client=client, until=until).follow()
    return next((event.message for event in events_until_then if event and event.message), None) or load()
