"""The sweeper: queues replies that nobody looks after again, and deletes old rows.

The worker's entry points to this feature. Every task takes ids, and may run twice.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import redis
from celery import shared_task
from celery.signals import worker_shutting_down
from flask import current_app
from sqlalchemy import ColumnElement, and_, bindparam, case, exists, func, select, true, update

from app.chatrooms.models import Role, Status, messages
from app.core.celery import GENERATIONS, next_published_at
from app.core.db import database_now, db
from app.core.redis import redis_client
from app.core.settings import settings
from app.core.transactions import transaction
from app.generation.runner import Generator
from app.generation.state import GENERATE_REPLY, enqueue_reply, others, waits_for_slot
from app.generation.worker import Breaker, LeaseKeeper
from app.integrations.gemini.client import model_client_class

log = logging.getLogger(__name__)

BATCH = 500
ROOMS = 2_000  # looked at by one sweep; the next one goes on behind them
GOES_ON_AT = "sweeper:goes_on_at"  # the chatroom behind which it does, in Redis
FIRST = UUID(int=0)

# The earliest unfinished reply of one room after the other, each found by one look into ix_messages_open_by_room: what
# waits behind it costs nothing. Conditions on `status` would lead to other indexes (see leases.py).
UNFINISHED_REPLY = (
    select(messages.c.chatroom_id, messages.c.id, messages.c.status, messages.c.enqueued_at)
    .where(messages.c.role == Role.MODEL, messages.c.completed_at.is_(None))
    .order_by(messages.c.chatroom_id, messages.c.position)
    .limit(1)
)
HEADS = UNFINISHED_REPLY.where(messages.c.chatroom_id > bindparam("behind")).cte("heads", recursive=True)
NEXT_HEAD = UNFINISHED_REPLY.where(messages.c.chatroom_id > HEADS.c.chatroom_id).lateral("next")
HEADS = HEADS.union_all(select(NEXT_HEAD).select_from(HEADS.join(NEXT_HEAD, true())))
IS_GENERATED = exists().where(others.c.chatroom_id == HEADS.c.chatroom_id, others.c.status == Status.GENERATING)
IS_LOST = and_(HEADS.c.status == Status.QUEUED, HEADS.c.enqueued_at < bindparam("lost_before"), ~IS_GENERATED)
LOOKED_AT = select(HEADS.c.chatroom_id, case((IS_LOST, HEADS.c.id)).label("lost")).limit(ROOMS)


def sweep_replies(*, now: datetime, requeue_after: timedelta) -> list[UUID]:
    """Queue replies again whose worker is gone, and those among the next ROOMS whose task was lost; their ids.

    requeue_after: how long a task may take to be picked up before it counts as lost. One that was queued after the
    task that workers take next is not lost: it waits behind it. Safe to run twice at once: a reply is taken by one
    sweep, and a task too many changes nothing.
    """
    lost_before = min(now, oldest_task_at() or now) - requeue_after
    worker_gone = and_(
        messages.c.status == Status.GENERATING,
        messages.c.lease_expires_at < func.now(),
        messages.c.enqueued_at < now - requeue_after,
    )
    with transaction() as current:
        lost = lost_replies(lost_before)
        task_lost = and_(
            messages.c.id.in_(lost),
            messages.c.status == Status.QUEUED,
            messages.c.enqueued_at < lost_before,
            ~waits_for_slot(),
        )
        queued = [reply_id for condition in (worker_gone, task_lost) for reply_id in note_queued(condition, now)]
        for reply_id in queued:
            enqueue_reply(current, reply_id)
    if queued:
        log.warning("The sweeper queued %d replies again", len(queued))
    return queued


def note_queued(condition: ColumnElement[bool], now: datetime) -> Sequence[UUID]:
    """Note that replies are queued at `now`, but those that somebody else has locked; their ids."""
    unlocked = select(messages.c.id).where(condition).with_for_update(skip_locked=True)
    statement = update(messages).where(messages.c.id.in_(unlocked)).values(enqueued_at=now)
    return db.session.scalars(statement.returning(messages.c.id)).all()


def lost_replies(lost_before: datetime) -> list[UUID]:
    """Replies whose turn it is and whose task was queued before that, in the ROOMS behind those of the last sweep."""
    rows = db.session.execute(LOOKED_AT, {"behind": goes_on_at(), "lost_before": lost_before}).all()
    go_on_at(rows[-1].chatroom_id if len(rows) == ROOMS else FIRST)
    return [row.lost for row in rows if row.lost is not None]


def goes_on_at() -> UUID:
    """The chatroom behind which this sweep goes on: the first one's, when Redis does not know."""
    with suppress(redis.RedisError):
        known: Any = redis_client().get(GOES_ON_AT)
        return UUID(known.decode()) if known else FIRST
    return FIRST


def go_on_at(chatroom_id: UUID) -> None:
    with suppress(redis.RedisError):
        redis_client().set(GOES_ON_AT, str(chatroom_id))


def oldest_task_at() -> datetime | None:
    """When the task that workers take next was queued; None when none waits, or Redis does not say."""
    try:
        return next_published_at(GENERATIONS)
    except redis.RedisError:
        return None


one_at_a_time = threading.Lock()  # `cache` alone would let two first tasks make two
FINISH_WITHIN_SECONDS = 15  # of a shutdown's 25: what is not done by then is handed back


def generator() -> Generator:
    """The process's generator, one for all its threads."""
    with one_at_a_time:
        return make_generator()


@cache
def make_generator() -> Generator:
    chosen = settings()
    model = model_client_class(chosen.gemini_sdk)(
        api_key=chosen.gemini_api_key,
        endpoint=chosen.gemini_api_endpoint,
        model=chosen.gemini_model,
        system_instruction=chosen.gemini_system_instruction,
    )
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    keeper = LeaseKeeper(app, lease=timedelta(seconds=chosen.reply_lease_seconds))
    return Generator(model, keeper, Breaker())


@shared_task(name=GENERATE_REPLY)
def generate_reply(reply_id: str) -> None:
    """Make one attempt at a reply; does nothing when somebody else holds it or it is done."""
    generator().generate(UUID(reply_id))


@shared_task(name="messages.sweep")
def sweep() -> None:
    """Queue replies that nobody looks after again."""
    with transaction():
        now = database_now()
    sweep_replies(now=now, requeue_after=timedelta(seconds=settings().reply_requeue_after_seconds))


@worker_shutting_down.connect
def hand_back_in_time(**_: Any) -> None:
    if make_generator.cache_info().currsize:
        make_generator().keeper.leave_after(FINISH_WITHIN_SECONDS)
