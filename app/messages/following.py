"""A client that follows a reply: its slot, its session, and the events until the reply ends or nobody listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from flask import current_app

from app.core.auth import TokenRevoked, current_session_check
from app.core.draining import is_draining
from app.core.errors import NotFound
from app.core.redis_clients import redis_client
from app.core.settings import settings
from app.core.transactions import release_connection
from app.messages.models import Message
from app.messages.service import get_message
from app.messages.stream_slots import open_slot
from app.messages.streaming import Event, Follower, Place


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
