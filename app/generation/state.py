"""Who may write a reply: claims, their leases, and the fenced writes that only a claim's holder can make.

A claim is one conditional UPDATE that sets a lease and counts the attempt. Every later write names that
attempt, so a task that runs twice, a second worker and a sweep that races a slow worker all store one reply.
Every time in here is told by PostgreSQL's clock: a machine whose own is wrong does no harm.
The statements are built once: building them anew for each reply costs more CPU than the database does.

Queueing the generation of replies: the task carries an id, and the row says the rest.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Interval,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.exc import IntegrityError

from app.chatrooms.models import ONE_IN_A_SLOT, ONE_OF_A_ROOM, Chatroom, Role, Status, messages
from app.core.db import db
from app.core.settings import settings
from app.core.transactions import Transaction
from app.users.models import User

UNFINISHED = (Status.QUEUED, Status.GENERATING)

chatrooms, users = Chatroom.__table__, User.__table__
prompts, others = messages.alias("prompts"), messages.alias("others")


class RoomBusy(Exception):
    """Another reply of the room is being generated."""


class SlotTaken(Exception):
    """Another reply of the user has got the slot at this very moment; there may be another one."""


@dataclass(frozen=True)
class Claim:
    """The right to finish a reply, as long as nobody takes the lease over."""

    reply_id: UUID
    attempt: int
    chatroom_id: UUID
    position: int
    user_id: UUID
    prompt: str
    failures: int
    started_at: datetime
    claimed_at: datetime
    request_id: str | None
    streamed: bool
    claimed_monotonic: float = field(default_factory=time.monotonic, compare=False)

    def now(self) -> datetime:
        """What time it is by PostgreSQL's clock."""
        return self.claimed_at + timedelta(seconds=time.monotonic() - self.claimed_monotonic)


# Conditions that belong to one row, or to the first of a room, leave `status` out where they can: it leads the planner
# to the indexes of all unfinished replies, which it takes for short until the next ANALYZE, when a backlog grows.
of_the_room = others.c.chatroom_id == messages.c.chatroom_id
FIRST_QUEUED = (
    select(others.c.position)
    .where(
        of_the_room, others.c.role == Role.MODEL, others.c.completed_at.is_(None), others.c.lease_expires_at.is_(None)
    )
    .order_by(others.c.position)
    .limit(1)
    .correlate(messages)
    .scalar_subquery()
)
# A retried reply may be earlier in its room than the one that is generated: it waits, and is not waited for.
WAITS_ITS_TURN = or_(
    exists().where(of_the_room, others.c.id != messages.c.id, others.c.status == Status.GENERATING),
    and_(messages.c.lease_expires_at.is_(None), messages.c.position > FIRST_QUEUED),
)

# One of the user's free slots by chance, so that claims at the same time seldom want the same; null when none is free.
number = func.generate_series(1, bindparam("slots", type_=Integer)).column_valued("number")
FREE_SLOT = (
    select(func.array_agg(aggregate_order_by(number, func.random()), type_=ARRAY(Integer))[1].label("slot"))
    .where(
        ~exists()
        .where(
            others.c.held_for == chatrooms.c.user_id,
            others.c.status == Status.GENERATING,
            others.c.slot == number,
            others.c.id != bindparam("reply_id"),
        )
        .correlate_except(others)
    )
    .correlate(chatrooms)
    .lateral("free")
)
has_slot = FREE_SLOT.c.slot.is_not(None)


def if_slot(value: Any, otherwise: Any) -> ColumnElement[Any]:
    return case((has_slot, value), else_=otherwise)


def status_of(status: Status) -> ColumnElement[Any]:
    return literal(status, messages.c.status.type)


# Without a free slot the reply stays queued, marked as one that waits for it.
CLAIM = (
    update(messages)
    .where(
        chatrooms.c.id == messages.c.chatroom_id,
        messages.c.id == bindparam("reply_id"),
        messages.c.role == Role.MODEL,
        or_(
            and_(
                messages.c.completed_at.is_(None),
                messages.c.lease_expires_at.is_(None),
                or_(messages.c.not_before.is_(None), messages.c.not_before <= func.now()),
            ),
            messages.c.lease_expires_at < func.now(),
        ),
        ~WAITS_ITS_TURN,
        users.c.id == chatrooms.c.user_id,
        users.c.mobile.is_not(None),  # neither the chatroom nor the account is deleted
        prompts.c.id == messages.c.in_reply_to,
    )
    .values(
        status=if_slot(status_of(Status.GENERATING), status_of(Status.QUEUED)),
        held_for=chatrooms.c.user_id,
        slot=FREE_SLOT.c.slot,
        attempt=messages.c.attempt + if_slot(1, 0),
        failures=messages.c.failures + case((messages.c.lease_expires_at.is_not(None), 1), else_=0),
        lease_expires_at=if_slot(func.now() + bindparam("lease", type_=Interval), null()),
        not_before=if_slot(null(), messages.c.not_before),
        started_at=if_slot(func.coalesce(messages.c.started_at, func.now()), messages.c.started_at),
    )
    .returning(
        messages.c.slot,
        messages.c.id,
        messages.c.attempt,
        messages.c.chatroom_id,
        messages.c.position,
        chatrooms.c.user_id,
        prompts.c.text,
        messages.c.failures,
        messages.c.started_at,
        func.now(),
        messages.c.request_id,
        messages.c.streamed,
    )
)


def waits_for_slot() -> ColumnElement[bool]:
    """Whether a queued reply waits until one of its user's ends: it was refused, and still no slot is free."""
    taken = select(func.count()).where(others.c.held_for == messages.c.held_for, others.c.status == Status.GENERATING)
    bound = settings().generations_per_user
    return and_(messages.c.held_for.is_not(None), taken.correlate(messages).scalar_subquery() >= bound)


def claim_reply(reply_id: UUID, *, lease: timedelta) -> Claim | None:
    """Claim a reply that waits its turn or whose holder is gone; None when it is not to be had.

    Its turn comes when no other reply of its room is under way and no earlier one is queued. An attempt whose
    holder is gone has failed, and is made again before any other reply of the room.
    A user has `generations_per_user` slots; a unique index lets one reply into each, so never are more of them
    generating. A reply that finds none is left queued, with a mark for whoever frees one.
    Raises RoomBusy, or SlotTaken, when another reply is claimed at this very moment; the transaction has failed then.
    """
    values = {"reply_id": reply_id, "lease": lease, "slots": settings().generations_per_user}
    try:
        row: Any = db.session.execute(CLAIM, values).one_or_none()
    except IntegrityError as error:
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        for name, kind in ((ONE_OF_A_ROOM, RoomBusy), (ONE_IN_A_SLOT, SlotTaken)):
            if constraint == name:
                raise kind from error
        raise
    return None if row is None or row[0] is None else Claim(*row[1:])


def renew(claims: Iterable[Claim], *, lease: timedelta) -> set[UUID]:
    """Extend the leases that are still held; the ids of their replies.

    A row that somebody has locked is passed over: its lease stays as it is until the next time, and counts as held.
    """
    held = tuple_(messages.c.id, messages.c.attempt).in_([(claim.reply_id, claim.attempt) for claim in claims])
    still_held = select(messages.c.id).where(held, messages.c.lease_expires_at.is_not(None))
    free = still_held.order_by(messages.c.id).with_for_update(skip_locked=True, key_share=True).cte("free")
    renewed = (
        update(messages)
        .where(messages.c.id == free.c.id)
        .values(lease_expires_at=func.now() + lease)
        .returning(messages.c.id)
        .cte("renewed")
    )
    return set(db.session.scalars(still_held.add_cte(renewed)))


def write(claim: Claim, **values: object) -> bool:
    """Write to the claimed reply and let the claim go; False when somebody else has taken it over."""
    statement = (
        update(messages)
        .where(
            messages.c.id == claim.reply_id,
            messages.c.attempt == claim.attempt,
            messages.c.lease_expires_at.is_not(None),
        )
        .values(lease_expires_at=None, held_for=None, slot=None, **values)
        .returning(messages.c.id)
    )
    return db.session.scalar(statement) is not None


GENERATE_REPLY = "messages.generate_reply"

NEXT_IN_ROOM = (
    select(messages.c.id, messages.c.status)
    .where(
        messages.c.chatroom_id == bindparam("room"), messages.c.role == Role.MODEL, messages.c.completed_at.is_(None)
    )
    .order_by(messages.c.position)
    .limit(1)
)
WAITING_FOR_SLOT = (
    select(messages.c.id)
    .where(messages.c.held_for == bindparam("user"), messages.c.slot.is_(None))
    .order_by(messages.c.created_at)
    .limit(1)
    .with_for_update(skip_locked=True, key_share=True)
)
NEXT_OF_USER = (  # without its mark, so that whoever ends next takes another one
    update(messages)
    .where(messages.c.id == WAITING_FOR_SLOT.scalar_subquery())
    .values(enqueued_at=bindparam("at"), held_for=None)
    .returning(messages.c.id, messages.c.status)
    .cte("next_of_user")
)
NEXT = select(NEXT_IN_ROOM.subquery()).union_all(select(NEXT_OF_USER))


def enqueue_reply(current: Transaction, reply_id: UUID, *, delay_seconds: float = 0) -> None:
    """Queue the reply's task once `current` is committed."""
    current.enqueue_after_commit(GENERATE_REPLY, str(reply_id), delay_seconds=delay_seconds)


def enqueue_next(
    current: Transaction, chatroom_id: UUID, user_id: UUID, *, now: datetime, but: UUID | None = None
) -> None:
    """Queue the tasks of those who waited for a reply of this room to end, and note when.

    They are the room's earliest unfinished reply, if it waits for its turn and is not `but`, and the first of the
    user's that found no free slot. A row that is locked is somebody else's to queue.
    """
    rows = db.session.execute(NEXT, {"room": chatroom_id, "user": user_id, "at": now})
    chosen = {row.id for row in rows if row.status is Status.QUEUED and row.id != but}
    if not chosen:
        return
    unlocked = select(messages.c.id).where(messages.c.id.in_(chosen)).with_for_update(skip_locked=True)
    db.session.execute(update(messages).where(messages.c.id.in_(unlocked)).values(enqueued_at=now))
    for reply_id in chosen:
        enqueue_reply(current, reply_id)
