"""Who may write a reply: claims, their leases, and the fenced writes that only a claim's holder can make.

A claim is one conditional UPDATE that sets a lease and counts the attempt. Every later write names that
attempt, so a task that runs twice, a second worker and a sweep that races a slow worker all store one reply.
The statements are built once: building them anew for each reply costs more CPU than the database does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, case, exists, func, or_, tuple_, update
from sqlalchemy.exc import IntegrityError

from app.chatrooms.models import Chatroom
from app.core.database import db
from app.messages.models import Role, Status, messages

UNFINISHED = (Status.QUEUED, Status.GENERATING)

chatrooms = Chatroom.__table__
prompts, others = messages.alias("prompts"), messages.alias("others")


class RoomBusy(Exception):
    """Another reply of the room is being generated."""


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
    created_at: datetime
    started_at: datetime
    request_id: str | None
    streamed: bool


# A retried reply may be earlier in its room than the one that is generated: it waits, and is not waited for.
WAITS_ITS_TURN = exists().where(
    others.c.chatroom_id == messages.c.chatroom_id,
    others.c.id != messages.c.id,
    or_(
        others.c.status == Status.GENERATING,
        and_(
            messages.c.status == Status.QUEUED,
            others.c.status == Status.QUEUED,
            others.c.position < messages.c.position,
        ),
    ),
)
CLAIM = (
    update(messages)
    .where(
        messages.c.id == bindparam("reply_id"),
        messages.c.role == Role.MODEL,
        or_(
            and_(
                messages.c.status == Status.QUEUED,
                or_(messages.c.not_before.is_(None), messages.c.not_before <= bindparam("now")),
            ),
            and_(messages.c.status == Status.GENERATING, messages.c.lease_expires_at < bindparam("now")),
        ),
        ~WAITS_ITS_TURN,
        chatrooms.c.id == messages.c.chatroom_id,
        prompts.c.id == messages.c.in_reply_to,
    )
    .values(
        status=Status.GENERATING,
        attempt=messages.c.attempt + 1,
        failures=messages.c.failures + case((messages.c.status == Status.GENERATING, 1), else_=0),
        lease_expires_at=bindparam("leased_until"),
        not_before=None,
        started_at=func.coalesce(messages.c.started_at, bindparam("now")),
    )
    .returning(
        messages.c.id,
        messages.c.attempt,
        messages.c.chatroom_id,
        messages.c.position,
        chatrooms.c.user_id,
        prompts.c.text,
        messages.c.failures,
        messages.c.created_at,
        messages.c.started_at,
        messages.c.request_id,
        messages.c.streamed,
    )
)


def claim_reply(reply_id: UUID, *, now: datetime, lease: timedelta) -> Claim | None:
    """Claim a reply that waits its turn or whose holder is gone; None when it is not to be had.

    Its turn comes when no other reply of its room is under way and no earlier one is queued. An attempt whose
    holder is gone has failed, and is made again before any other reply of the room.
    Raises RoomBusy when another reply of the room is claimed at this very moment; the transaction has failed then.
    """
    values = {"reply_id": reply_id, "now": now, "leased_until": now + lease}
    try:
        row: Any = db.session.execute(CLAIM, values).one_or_none()
    except IntegrityError as error:
        raise RoomBusy from error
    return None if row is None else Claim(*row)


def renew(claims: Iterable[Claim], *, now: datetime, lease: timedelta) -> set[UUID]:
    """Extend the leases that are still held; the ids of their replies."""
    held = [(claim.reply_id, claim.attempt) for claim in claims]
    statement = (
        update(messages)
        .where(tuple_(messages.c.id, messages.c.attempt).in_(held), messages.c.status == Status.GENERATING)
        .values(lease_expires_at=now + lease)
        .returning(messages.c.id)
    )
    return set(db.session.scalars(statement))


def write(claim: Claim, **values: object) -> bool:
    """Write to the claimed reply and let the claim go; False when somebody else has taken it over."""
    statement = (
        update(messages)
        .where(
            messages.c.id == claim.reply_id,
            messages.c.attempt == claim.attempt,
            messages.c.status == Status.GENERATING,
        )
        .values(lease_expires_at=None, **values)
        .returning(messages.c.id)
    )
    return db.session.scalar(statement) is not None
