"""The sweeper: rings again for replies that nobody looks after, and throws old rows away."""

import logging
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import redis
from sqlalchemy import and_, or_, select, update

from app.core.database import db
from app.core.tasks import GENERATIONS, next_published_at, ring
from app.core.transactions import transaction
from app.messages.idempotency import forget_old_keys
from app.messages.leases import WAITS_ITS_TURN, messages
from app.messages.models import Status
from app.messages.service import GENERATE_REPLY

log = logging.getLogger(__name__)

BATCH = 500


def sweep_replies(*, now: datetime, patience: timedelta) -> list[UUID]:
    """Ring again for up to BATCH replies whose bell was lost or whose worker is gone; their ids.

    patience: how long a rung bell may take before it counts as lost. One that was rung after the bell that workers
    take next is not lost: it waits behind it. Safe to run twice at once: a reply is taken by one sweep, and a bell
    too many changes nothing.
    """
    heard = min(now, oldest_bell() or now)
    bell_lost = and_(messages.c.status == Status.QUEUED, ~WAITS_ITS_TURN)
    holder_gone = and_(messages.c.status == Status.GENERATING, messages.c.lease_expires_at < now)
    unattended = (
        select(messages.c.id)
        .where(messages.c.rung_at < heard - patience, or_(bell_lost, holder_gone))
        .order_by(messages.c.created_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    statement = update(messages).where(messages.c.id.in_(unattended)).values(rung_at=now).returning(messages.c.id)
    with transaction() as current:
        rung = list(db.session.scalars(statement))
        for reply_id in rung:
            current.after_commit(partial(ring, GENERATE_REPLY, str(reply_id)))
    if rung:
        log.warning("The sweeper rang again for %d replies", len(rung))
    return rung


def oldest_bell() -> datetime | None:
    """When the bell that workers take next was rung; None when none waits, or Redis does not say."""
    try:
        return next_published_at(GENERATIONS)
    except redis.RedisError:
        return None


def sweep_idempotency_keys(*, now: datetime) -> int:
    """Throw away up to BATCH keys past their lifetime; how many."""
    with transaction():
        return forget_old_keys(now, at_most=BATCH)
