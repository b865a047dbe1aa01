"""`Prefer: wait`: hold a request until its reply has ended."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from app.chatrooms.models import Status
from app.chatrooms.service import get_message
from app.core.auth import TokenRevoked
from app.core.clock import utc_now
from app.core.db import DATABASE_GAVE_UP, log_database_error
from app.core.errors import NotFound
from app.core.http import is_draining
from app.core.settings import settings
from app.core.transactions import release_connection, transaction
from app.messages import idempotency
from app.messages.service import Accepted
from app.quota.usage import usage_today
from app.streaming.events import FROM_THE_START, wait_for_end
from app.streaming.slots import held_request

log = logging.getLogger(__name__)


@contextmanager
def place_to_wait(seconds: int) -> Iterator[int]:
    """Hold the request during the block; how long it may wait: not at all when the process holds many."""
    half = max(1, settings().streams_per_process // 2)  # so that waits alone never keep streams out
    with held_request(at_most=half if seconds else 0) as has_place:
        yield seconds if has_place else 0


def wait_for_reply(user_id: UUID, accepted: Accepted, *, now: datetime) -> Accepted:
    """Wait until the reply has ended, `accepted.waits_until` at the longest, and answer with it.

    Holds no connection. A chatroom that is deleted meanwhile ends the wait, and so do the end of this process and the
    loss of PostgreSQL; the prompt was accepted all the same.
    """
    if accepted.waits_until is None:
        return accepted
    try:
        return wait_at_most(user_id, accepted, (accepted.waits_until - now).total_seconds())
    except (NotFound, TokenRevoked):
        return accepted
    except DATABASE_GAVE_UP as error:
        log_database_error(log, "a request waits no longer for its reply", error)
        release_connection()
        return accepted


def wait_at_most(user_id: UUID, accepted: Accepted, seconds: float) -> Accepted:
    """As `wait_for_reply`. Raises NotFound, TokenRevoked, and what SQLAlchemy raises without PostgreSQL."""
    deadline = time.monotonic() + seconds
    reply, place = accepted.reply, FROM_THE_START
    while not reply.status.is_final and (left := deadline - time.monotonic()) > 0 and not is_draining():
        place = wait_for_end(reply.id, left, after=place, leaving=is_draining)
        reply = get_message(user_id, reply.chatroom_id, reply.id)
        release_connection()
    if not reply.status.is_final:
        return accepted
    if accepted.idempotency_key:
        with transaction():
            idempotency.note_ended(user_id, accepted.idempotency_key)
    gave_back = reply.status in {Status.FAILED, Status.CANCELED}
    usage = usage_today(user_id, now=utc_now()) if gave_back else accepted.usage
    return replace(accepted, reply=reply, ended=True, usage=usage)
