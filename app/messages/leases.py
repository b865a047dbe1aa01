"""Who may write a reply: claims, their leases, and the fenced writes that only a claim's holder can make.

A claim is one conditional UPDATE that sets a lease and counts the attempt. Every later write names that
attempt, so a task that runs twice, a second worker and a sweep that races a slow worker all store one reply.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists, or_, select, tuple_, update
from sqlalchemy.orm import aliased

from app.chatrooms.models import Chatroom
from app.core.database import db
from app.messages.models import Message, Role, Status

UNFINISHED = (Status.QUEUED, Status.GENERATING)


@dataclass(frozen=True)
class Claim:
    """The right to finish a reply, as long as nobody takes the lease over."""

    reply_id: UUID
    attempt: int
    chatroom_id: UUID
    user_id: UUID
    prompt_id: UUID
    failures: int
    created_at: datetime
    started_at: datetime
    request_id: str | None


def claim_reply(reply_id: UUID, *, now: datetime, lease: timedelta) -> Claim | None:
    """Claim a reply that waits its turn or whose holder is gone; None when it is not to be had.

    Its turn comes when no earlier reply of its room is unfinished.
    """
    earlier = aliased(Message)
    waits_its_turn = exists().where(
        earlier.chatroom_id == Message.chatroom_id,
        earlier.position < Message.position,
        earlier.status.in_(UNFINISHED),
    )
    due = and_(Message.status == Status.QUEUED, or_(Message.not_before.is_(None), Message.not_before <= now))
    abandoned = and_(Message.status == Status.GENERATING, Message.lease_expires_at < now)
    statement = (
        update(Message)
        .where(
            Message.id == reply_id,
            Message.role == Role.MODEL,
            or_(due, abandoned),
            ~waits_its_turn,
            Chatroom.id == Message.chatroom_id,
        )
        .values(
            status=Status.GENERATING,
            attempt=Message.attempt + 1,
            lease_expires_at=now + lease,
            not_before=None,
            started_at=db.func.coalesce(Message.started_at, now),
        )
        .returning(
            Message.id,
            Message.attempt,
            Message.chatroom_id,
            Chatroom.user_id,
            Message.in_reply_to,
            Message.failures,
            Message.created_at,
            Message.started_at,
            Message.request_id,
        )
        .execution_options(synchronize_session=False)
    )
    row: Any = db.session.execute(statement).one_or_none()
    return None if row is None else Claim(*row)


def renew(claims: Iterable[Claim], *, now: datetime, lease: timedelta) -> set[UUID]:
    """Extend the leases that are still held; the ids of their replies."""
    held = [(claim.reply_id, claim.attempt) for claim in claims]
    statement = (
        update(Message)
        .where(tuple_(Message.id, Message.attempt).in_(held), Message.status == Status.GENERATING)
        .values(lease_expires_at=now + lease)
        .returning(Message.id)
        .execution_options(synchronize_session=False)
    )
    return set(db.session.scalars(statement))


def write(claim: Claim, **values: object) -> bool:
    """Write to the claimed reply and let the claim go; False when somebody else has taken it over."""
    statement = (
        update(Message)
        .where(
            Message.id == claim.reply_id,
            Message.attempt == claim.attempt,
            Message.status == Status.GENERATING,
        )
        .values(lease_expires_at=None, **values)
        .returning(Message.id)
        .execution_options(synchronize_session=False)
    )
    return db.session.scalar(statement) is not None


def next_in_room(chatroom_id: UUID) -> UUID | None:
    """The room's earliest unfinished reply, when it is waiting for its turn."""
    statement = (
        select(Message.id, Message.status)
        .where(Message.chatroom_id == chatroom_id, Message.status.in_(UNFINISHED))
        .order_by(Message.position)
        .limit(1)
    )
    row = db.session.execute(statement).one_or_none()
    return row.id if row is not None and row.status is Status.QUEUED else None
