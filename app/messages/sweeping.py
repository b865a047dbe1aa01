"""The sweeper: queues replies that nobody looks after again, and deletes old rows."""

import logging
from datetime import datetime, timedelta
from uuid import UUID

import redis
from sqlalchemy import and_, func, or_, select, update

from app.core.database import db
from app.core.tasks import GENERATIONS, next_published_at
from app.core.transactions import transaction
from app.messages.idempotency import forget_old_keys
from app.messages.leases import WAITS_ITS_TURN, waits_for_slot
from app.messages.models import Status, messages
from app.messages.queueing import enqueue_reply

log = logging.getLogger(__name__)

BATCH = 500


def sweep_replies(*, now: datetime, requeue_after: timedelta) -> list[UUID]:
    """Queue up to BATCH replies again whose task was lost or whose worker is gone; their ids.

    requeue_after: how long a task may take to be picked up before it counts as lost. One that was queued after the
    task that workers take next is not lost: it waits behind it. Safe to run twice at once: a reply is taken by one
    sweep, and a task too many changes nothing.
    """
    lost_before = min(now, oldest_task_at() or now) - requeue_after
    waits_for_others = or_(WAITS_ITS_TURN, waits_for_slot())
    task_lost = and_(messages.c.status == Status.QUEUED, ~waits_for_others, messages.c.enqueued_at < lost_before)
    worker_gone = and_(
        messages.c.status == Status.GENERATING,
        messages.c.lease_expires_at < func.now(),
        messages.c.enqueued_at < now - requeue_after,
    )
    unattended = (
        select(messages.c.id)
        .where(or_(task_lost, worker_gone))
        .order_by(messages.c.created_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    statement = update(messages).where(messages.c.id.in_(unattended)).values(enqueued_at=now).returning(messages.c.id)
    with transaction() as current:
        queued = list(db.session.scalars(statement))
        for reply_id in queued:
            enqueue_reply(current, reply_id)
    if queued:
        log.warning("The sweeper queued %d replies again", len(queued))
    return queued


def oldest_task_at() -> datetime | None:
    """When the task that workers take next was queued; None when none waits, or Redis does not say."""
    try:
        return next_published_at(GENERATIONS)
    except redis.RedisError:
        return None


def sweep_idempotency_keys(*, now: datetime) -> int:
    """Delete up to BATCH keys past their lifetime; how many."""
    with transaction():
        return forget_old_keys(now, at_most=BATCH)
