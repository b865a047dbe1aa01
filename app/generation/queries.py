"""Which reply is next: the claim, and the conditions and look-ups that the state machine and the sweeper share.

A room's replies are generated one at a time, in their order; a user has `GENERATIONS_PER_USER` slots. Statements are
built once: building them anew for each reply would cost more CPU than the database uses. Conditions on one row, or on
the first of a room, avoid `status` where they can: it leads the planner to the indexes of all unfinished replies. While
a backlog grows, the planner believes these to be short until the next ANALYZE.
"""

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
    true,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app.chatrooms.models import Chatroom, Role, Status, messages
from app.core import settings
from app.core.db import db
from app.users.models import User

chatrooms, users = Chatroom.__table__, User.__table__
prompts, other_messages = messages.alias("prompts"), messages.alias("other_messages")
CLOCK_SKEW = timedelta(seconds=1)  # a worker's clock may be ahead of PostgreSQL's: a task taken too early would be lost

IS_OPEN = and_(messages.c.role == Role.MODEL, messages.c.completed_at.is_(None))
in_same_room = other_messages.c.chatroom_id == messages.c.chatroom_id
FIRST_QUEUED = (
    select(other_messages.c.position)
    .where(
        in_same_room,
        other_messages.c.role == Role.MODEL,
        other_messages.c.completed_at.is_(None),
        other_messages.c.lease_expires_at.is_(None),
    )
    .order_by(other_messages.c.position)
    .limit(1)
    .correlate(messages)
    .scalar_subquery()
)
SUPERSEDED_BEFORE = (
    select(func.count())
    .where(in_same_room, other_messages.c.superseded, other_messages.c.position < messages.c.position)
    .correlate(messages)
    .scalar_subquery()
)
# A retried reply may come before the one being generated: it waits for that one, not the other way round.
WAITS_FOR_ROOM = or_(
    exists().where(in_same_room, other_messages.c.id != messages.c.id, other_messages.c.status == Status.GENERATING),
    and_(messages.c.lease_expires_at.is_(None), messages.c.position > FIRST_QUEUED),
)

# One of the user's free slots at random, so that parallel claims seldom want the same one; null when none is free.
slot_number = func.generate_series(1, bindparam("slots", type_=Integer)).column_valued("slot_number")
FREE_SLOT = (
    select(func.array_agg(aggregate_order_by(slot_number, func.random()), type_=ARRAY(Integer))[1].label("slot"))
    .where(
        ~exists()
        .where(
            other_messages.c.held_for == chatrooms.c.user_id,
            other_messages.c.status == Status.GENERATING,
            other_messages.c.slot == slot_number,
            other_messages.c.id != bindparam("reply_id"),
        )
        .correlate_except(other_messages)
    )
    .correlate(chatrooms)
    .lateral("free")
)

CLAIMABLE = and_(
    messages.c.id == bindparam("reply_id"),
    messages.c.role == Role.MODEL,
    or_(
        and_(
            messages.c.completed_at.is_(None),
            messages.c.lease_expires_at.is_(None),
            or_(messages.c.not_before.is_(None), messages.c.not_before <= func.now() + CLOCK_SKEW),
        ),
        messages.c.lease_expires_at < func.now(),
    ),
    ~WAITS_FOR_ROOM,
    chatrooms.c.id == messages.c.chatroom_id,
    users.c.id == chatrooms.c.user_id,
    users.c.mobile.is_not(None),  # neither the chatroom nor the account is deleted
    prompts.c.id == messages.c.in_reply_to,
)


def if_slot(value: Any, otherwise: Any) -> ColumnElement[Any]:
    return case((FREE_SLOT.c.slot.is_not(None), value), else_=otherwise)


def status_literal(status: Status) -> ColumnElement[Any]:
    return literal(status, messages.c.status.type)


# Without a free slot the reply is queued and marked as waiting for one. Returns the fields of a `Claim`.
CLAIM = (
    update(messages)
    .where(CLAIMABLE)
    .values(
        status=if_slot(status_literal(Status.GENERATING), status_literal(Status.QUEUED)),
        held_for=chatrooms.c.user_id,
        slot=FREE_SLOT.c.slot,
        attempt=messages.c.attempt + if_slot(1, 0),
        failures=messages.c.failures + case((messages.c.lease_expires_at.is_not(None), 1), else_=0),
        lease_expires_at=if_slot(func.now() + bindparam("lease", type_=Interval), null()),
        not_before=if_slot(null(), messages.c.not_before),
        started_at=if_slot(func.coalesce(messages.c.started_at, func.now()), messages.c.started_at),
    )
    .returning(
        messages.c.id.label("reply_id"),
        messages.c.attempt,
        messages.c.slot,
        messages.c.chatroom_id,
        messages.c.position,
        chatrooms.c.user_id,
        prompts.c.text.label("prompt"),
        messages.c.failures,
        messages.c.started_at,
        func.now().label("claimed_at"),
        messages.c.request_id,
        messages.c.traceparent,
        messages.c.streamed,
        SUPERSEDED_BEFORE.label("superseded_before"),
        chatrooms.c.model,
        chatrooms.c.instruction,
        chatrooms.c.title.is_(None).label("is_untitled"),
    )
)

NEXT_IN_ROOM = (
    select(messages.c.id, messages.c.status)
    .where(messages.c.chatroom_id == bindparam("room"), IS_OPEN)
    .order_by(messages.c.position)
    .limit(1)
)
IS_MARKED = and_(messages.c.held_for == bindparam("user"), messages.c.slot.is_(None))
WAITING_FOR_SLOT = (  # and for nothing else: a reply that also waits for its room gets a task when the room is free
    select(messages.c.id)
    .join(chatrooms, chatrooms.c.id == messages.c.chatroom_id)
    .where(IS_MARKED, chatrooms.c.user_id == messages.c.held_for, ~WAITS_FOR_ROOM)
    .order_by(messages.c.created_at)
    .limit(1)
)
NEXT_OF_USER = (  # clears its mark, so that the next reply to end picks another
    update(messages)
    .where(messages.c.id == WAITING_FOR_SLOT.with_for_update(key_share=True, of=messages).scalar_subquery())
    .values(held_for=None)
    .returning(messages.c.id, messages.c.status)
    .cte("next_of_user")
)
HAS_WAITING_REPLIES = select(
    or_(
        select(NEXT_IN_ROOM.subquery().c.status == Status.QUEUED).scalar_subquery().is_(true()),
        exists().where(IS_MARKED),
    )
)
NEXT = select(NEXT_IN_ROOM.subquery()).union_all(select(NEXT_OF_USER))

# The earliest unfinished reply of each room, room by room. Each takes one look-up in ix_messages_open_by_room, so the
# replies that wait behind it cost nothing.
ROOMS_PER_SWEEP = 2_000  # that one sweep looks at; the next sweep goes on after them
UNFINISHED_REPLY = (
    select(messages.c.chatroom_id, messages.c.id, messages.c.status, messages.c.enqueued_at)
    .where(IS_OPEN)
    .order_by(messages.c.chatroom_id, messages.c.position)
    .limit(1)
)
HEADS = UNFINISHED_REPLY.where(messages.c.chatroom_id > bindparam("after")).cte("heads", recursive=True)
NEXT_HEAD = UNFINISHED_REPLY.where(messages.c.chatroom_id > HEADS.c.chatroom_id).lateral("next")
HEADS = HEADS.union_all(select(NEXT_HEAD).select_from(HEADS.join(NEXT_HEAD, true())))
IS_ROOM_BUSY = exists().where(
    other_messages.c.chatroom_id == HEADS.c.chatroom_id, other_messages.c.status == Status.GENERATING
)
IS_LOST = and_(HEADS.c.status == Status.QUEUED, HEADS.c.enqueued_at < bindparam("lost_before"), ~IS_ROOM_BUSY)
SWEPT_ROOMS = select(HEADS.c.chatroom_id, case((IS_LOST, HEADS.c.id)).label("lost")).limit(ROOMS_PER_SWEEP)


def waits_for_slot() -> ColumnElement[bool]:
    """The condition that a queued reply waits for a slot: it found none free when claimed, and none is free now."""
    slots_in_use = select(func.count()).where(
        other_messages.c.held_for == messages.c.held_for, other_messages.c.status == Status.GENERATING
    )
    max_slots = settings().generations_per_user
    return and_(messages.c.held_for.is_not(None), slots_in_use.correlate(messages).scalar_subquery() >= max_slots)


def has_waiting_replies(chatroom_id: UUID, user_id: UUID) -> bool:
    """Whether `take_next_replies` may find anything."""
    return bool(db.session.scalar(HAS_WAITING_REPLIES, {"room": chatroom_id, "user": user_id}))


def take_next_replies(chatroom_id: UUID, user_id: UUID) -> list[UUID]:
    """Return the queued replies that may begin once a reply of this room and user is no longer generating.

    They are the room's next one, and one that waited for a slot of the user. The latter loses its mark: this writes.
    """
    rows: Any = db.session.execute(NEXT, {"room": chatroom_id, "user": user_id})
    return [row.id for row in rows if row.status is Status.QUEUED]


def lost_replies(*, after: UUID, lost_before: datetime) -> tuple[list[UUID], UUID | None]:
    """Find replies that are next in their room and whose task was queued before `lost_before`.

    Looks at ROOMS_PER_SWEEP rooms after the id `after`. Returns the replies, and the last of these rooms (None: no
    more).
    """
    rows = db.session.execute(SWEPT_ROOMS, {"after": after, "lost_before": lost_before}).all()
    lost = [row.lost for row in rows if row.lost is not None]
    return lost, rows[-1].chatroom_id if len(rows) == ROOMS_PER_SWEEP else None
