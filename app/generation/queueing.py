"""Queueing replies: which one is next, the claim, and the statement that stores an accepted prompt.

A reply's task carries only its id. A room's replies are generated one at a time, in their order; a user has
`GENERATIONS_PER_USER` slots. Statements are built once: building them anew for each reply would cost more CPU than the
database uses. Conditions on one row, or on the first of a room, avoid `status` where they can: it leads the planner to
the indexes of all unfinished replies. While a backlog grows, the planner believes these to be short until the next
ANALYZE.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Interval,
    Select,
    Table,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from uuid_utils.compat import uuid7

from app.chatrooms.models import Chatroom, Message, Role, Status, messages
from app.core import settings
from app.core.db import TRANSIENT_DATABASE_ERRORS, Model, db, locked_keys, log_database_error
from app.core.tracing import request_id, traceparent
from app.core.transactions import Transaction, release_connection, transaction
from app.users.models import User

log = logging.getLogger(__name__)

GENERATE_REPLY = "messages.generate_reply"
NAME_CHATROOM = "chatrooms.name"  # a chore

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

FIRST_IN_ROOM = (
    select(messages.c.id)
    .where(messages.c.chatroom_id == bindparam("room"), IS_OPEN)
    .order_by(messages.c.position)
    .limit(1)
    .scalar_subquery()
)
IS_NEXT_IN_ROOM = and_(messages.c.id == FIRST_IN_ROOM, messages.c.lease_expires_at.is_(None))
IS_MARKED = and_(messages.c.held_for == bindparam("user"), messages.c.slot.is_(None))
HAS_WAITING_REPLIES = select(or_(exists().where(IS_NEXT_IN_ROOM), exists().where(IS_MARKED)))
NEXT_IN_ROOM = (  # skipped while locked: that transaction queues, claims or ends it, or a sweep queues it
    select(messages.c.id)
    .where(IS_NEXT_IN_ROOM, messages.c.id.is_distinct_from(bindparam("exclude")))
    .with_for_update(skip_locked=True, key_share=True)
    .cte("next_in_room")
)
NEXT_OF_USER = (  # waits for a slot and nothing else: one that also waits for its room gets a task when that is free
    select(messages.c.id)
    .join(chatrooms, chatrooms.c.id == messages.c.chatroom_id)
    .where(IS_MARKED, chatrooms.c.user_id == messages.c.held_for, ~WAITS_FOR_ROOM)
    .order_by(messages.c.created_at)
    .limit(1)
    .with_for_update(key_share=True, of=messages)
    .cte("next_of_user")
)
# Clears their marks, so that the next reply to end picks another. NEXT_OF_USER comes first: it is the only one to wait
# for a row, and holds none yet. Two ends that wait for each other's rows would deadlock.
TAKE_NEXT = (
    update(messages)
    .where(messages.c.id.in_(select(NEXT_OF_USER).union_all(select(NEXT_IN_ROOM))))
    .values(enqueued_at=func.now(), held_for=None)
    .returning(messages.c.id)
)

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
SWEPT_ROOMS = select(HEADS.c.chatroom_id, case((IS_LOST, HEADS.c.id)).label("lost"))

TAKE_POSITIONS = (
    update(chatrooms)
    .where(chatrooms.c.id == bindparam("room"), chatrooms.c.user_id == bindparam("user"))
    .values(turns=chatrooms.c.turns + 2, updated_at=bindparam("now"), last_prompt_at=bindparam("now"))
    .returning(chatrooms.c.turns)
    .cte("room")
)


@cache
def enqueue_statement(*rows: tuple[str, Table, tuple[str, ...]]) -> Select[Any]:
    """Return one statement that takes two positions of a room and inserts rows, the prompt and its reply first.

    rows: the kind, the table and the given columns of each. If the room is not the user's, nothing is inserted. Cached:
    each combination of rows is built once.
    """
    turns = TAKE_POSITIONS.c.turns
    inserts = []
    for kind, table, names in rows:
        values: dict[str, Any] = {name: bindparam(f"new_{kind}_{name}", type_=table.c[name].type) for name in names}
        if table is messages:
            values["position"] = turns - (2 if kind == "prompt" else 1)
        if kind == "reply":
            values["enqueued_at"] = func.now()
        selected = select(*values.values()).select_from(TAKE_POSITIONS)
        inserts.append(insert(table).from_select([*values], selected, include_defaults=False).cte(f"new_{kind}"))
    return select(turns).add_cte(*inserts)


def given_values(row: Model) -> dict[str, Any]:
    """Return the values that a row which is not stored yet was given, by column."""
    return {name: value for name, value in vars(row).items() if name != "_sa_instance_state"}


def new_exchange(chatroom_id: UUID, text: str, *, streamed: bool, now: datetime) -> tuple[Message, Message]:
    """A prompt and its queued reply, not stored yet."""
    prompt = Message(id=uuid7(), role=Role.USER, text=text, status=Status.COMPLETED, completed_at=now, streamed=False)
    prompt.chatroom_id, prompt.created_at, prompt.superseded = chatroom_id, now, False
    prompt.attempt = prompt.failures = 0
    return prompt, new_reply(chatroom_id, prompt.id, streamed=streamed, now=now)


def new_reply(chatroom_id: UUID, prompt_id: UUID, *, streamed: bool, now: datetime) -> Message:
    """A queued reply, not stored yet."""
    reply = Message(id=uuid7(), role=Role.MODEL, status=Status.QUEUED, in_reply_to=prompt_id, streamed=streamed)
    reply.chatroom_id, reply.superseded = chatroom_id, False
    reply.attempt = reply.failures = 0
    reply.request_id, reply.traceparent = request_id.get(), traceparent.get()
    reply.created_at = reply.accepted_at = now
    return reply


def enqueue_generation(tx: Transaction, reply_id: UUID, *, delay_seconds: float = 0) -> None:
    """Queue the reply's task once `tx` is committed. The task carries only the id; the row has the rest."""
    tx.enqueue_after_commit(GENERATE_REPLY, str(reply_id), delay_seconds=delay_seconds)


def enqueue_next_replies(chatroom_id: UUID, user_id: UUID, *, exclude: UUID | None = None) -> None:
    """Queue the tasks of the replies that waited for a reply of this room or user to end.

    They are the room's next one, and one that waited for a slot of the user. Call it after that end is committed: a
    task that ran earlier would be refused its claim, and only a sweep would queue it again. If PostgreSQL fails, a
    sweep queues them.
    """
    try:
        found_by = {"room": chatroom_id, "user": user_id}
        if not db.session.scalar(HAS_WAITING_REPLIES, found_by):
            return
        with transaction() as tx:
            for reply_id in db.session.scalars(TAKE_NEXT, found_by | {"exclude": exclude}):
                enqueue_generation(tx, reply_id)
    except TRANSIENT_DATABASE_ERRORS as error:
        log_database_error(log, "a sweep will queue the replies that waited for one to end", error)
    finally:
        release_connection()


def mark_enqueued(condition: ColumnElement[bool], at: datetime) -> Sequence[UUID]:
    """Note when the matching replies' tasks are queued, by PostgreSQL's clock. Skips locked rows. Returns the ids."""
    unlocked = locked_keys(select(messages.c.id).where(condition))
    statement = update(messages).where(messages.c.id.in_(unlocked)).values(enqueued_at=at)
    return db.session.scalars(statement.returning(messages.c.id)).all()


def waits_for_slot() -> ColumnElement[bool]:
    """The condition that a queued reply waits for a slot: it found none free when claimed, and none is free now."""
    slots_in_use = select(func.count()).where(
        other_messages.c.held_for == messages.c.held_for, other_messages.c.status == Status.GENERATING
    )
    max_slots = settings().generations_per_user
    return and_(messages.c.held_for.is_not(None), slots_in_use.correlate(messages).scalar_subquery() >= max_slots)


def lost_replies(*, after: UUID, lost_before: datetime) -> tuple[list[UUID], UUID | None]:
    """Find replies that are next in their room and whose task was queued before `lost_before`.

    Looks at ROOMS_PER_SWEEP rooms after the id `after`. Returns the replies, and the last of these rooms (None: no
    more).
    """
    swept = SWEPT_ROOMS.limit(ROOMS_PER_SWEEP)
    rows = db.session.execute(swept, {"after": after, "lost_before": lost_before}).all()
    lost = [row.lost for row in rows if row.lost is not None]
    return lost, rows[-1].chatroom_id if len(rows) == ROOMS_PER_SWEEP else None
