"""The state machine of a reply: every write to its status is here, in the caller's transaction.

| function | from | to | precondition | fence | prompt |
|---|---|---|---|---|---|
| `enqueue` | - | queued | the user's row is locked | - | charged beside it |
| `claim` | queued, generating | generating | next, due, a free slot; or its lease ran out | unique indexes | - |
| `renew` | generating | generating | the lease is held | attempt | - |
| `complete` | generating | completed | the lease is held | attempt | kept |
| `mark_passed_on` | generating | generating | the lease is held | attempt | not refunded from here on |
| `fail` | generating | failed | the lease is held | attempt | refunded, unless text was passed on or it is at fault |
| `requeue` | generating | queued | the lease is held | attempt | - |
| `cancel` | queued, generating | canceled | as it was read | status, attempt | refunded, unless claimed since charged |
| `retry` | failed, canceled | queued | the user's row is locked | row lock | charged by the caller |
| `regenerate` | - | queued | the user's row is locked, the old reply superseded | - | charged by the caller |
| `retry_failed` | failed | queued | an operator asks | row lock | - |

A claim is one conditional UPDATE that sets a lease and counts the attempt. Every later write names that attempt. So a
reply is stored once, even if its task runs twice, two workers take it, or a sweep races a slow worker. Leases, and the
times at which tasks were queued, go by PostgreSQL's clock: a machine whose clock is wrong does no harm.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Executable, bindparam, func, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from app.chatrooms.models import (
    ONE_IN_A_SLOT,
    ONE_OF_A_ROOM,
    Chatroom,
    Context,
    ErrorCode,
    IdempotencyKey,
    Message,
    Status,
    messages,
)
from app.core import settings
from app.core.db import db, locked_keys
from app.core.tracing import request_id, traceparent
from app.core.transactions import Transaction
from app.generation.queueing import (
    CLAIM,
    NAME_CHATROOM,
    enqueue_generation,
    enqueue_next_replies,
    enqueue_statement,
    given_values,
    new_reply,
)
from app.integrations.gemini.client import Answer
from app.quota.ledger import note_cost, refund_prompt
from app.quota.models import PromptCharge
from app.streaming.events import Entry, publish
from app.users.service import lock_user

NON_REFUNDABLE = {ErrorCode.BLOCKED_BY_SAFETY, ErrorCode.EMPTY_REPLY}  # the prompt's own doing
CLEAR_LEASE: dict[str, Any] = {"lease_expires_at": None, "held_for": None, "slot": None}
BATCH = 500


@dataclass(frozen=True)
class Claim:
    """What a worker holds while it generates a reply: the right to finish it, until somebody takes the lease over."""

    reply_id: UUID
    attempt: int
    slot: int
    chatroom_id: UUID
    position: int
    user_id: UUID
    prompt: str
    failures: int
    started_at: datetime
    claimed_at: datetime
    request_id: str | None
    traceparent: str | None
    streamed: bool
    superseded_before: int
    model: str | None  # the one chosen for the chatroom
    instruction: str | None
    is_untitled: bool
    messages_sent: int | None = None  # the prompt and turns before it; None until Gemini is asked
    claimed_monotonic: float = field(default_factory=time.monotonic, compare=False)

    @property
    def context(self) -> Context | None:
        """How many turns Gemini is sent, and how many other current ones precede the reply; None until it is asked."""
        if self.messages_sent is None:
            return None
        return Context(self.messages_sent, self.position - self.superseded_before - self.messages_sent)

    def now(self) -> datetime:
        """The time by PostgreSQL's clock."""
        return self.claimed_at + timedelta(seconds=time.monotonic() - self.claimed_monotonic)


class ClaimedElsewhere(Exception):
    """Another reply won a race for the room, or for the user's slot."""


def enqueue(tx: Transaction, prompt: Message, reply: Message, charge: PromptCharge, key: IdempotencyKey | None) -> bool:
    """Store a prompt, its reply and the charge, and queue the task after the commit.

    key: the Idempotency-Key that the prompt came with. None of these objects is in the session; the prompt and the
    reply get their positions here. Returns False if the room is not the user's.
    """
    rows = {"prompt": prompt, "reply": reply, "charge": charge} | ({"key": key} if key else {})
    values = {"room": prompt.chatroom_id, "user": charge.user_id, "now": prompt.created_at}
    for kind, row in rows.items():
        values |= {f"new_{kind}_{name}": value for name, value in given_values(row).items()}
    columns = [(kind, row.__table__, tuple(given_values(row))) for kind, row in rows.items()]
    turns = db.session.scalar(enqueue_statement(*columns), values)
    if turns is None:
        return False
    prompt.position, reply.position = turns - 2, turns - 1
    enqueue_generation(tx, reply.id)
    return True


def claim(reply_id: UUID, *, lease: timedelta) -> Claim | None:
    """Claim a reply that is next in its room, or whose holder is gone. Returns None if it cannot be claimed now.

    It is next when no other reply of its room is being generated and no earlier one is queued. If its holder is gone,
    that attempt counts as failed, and the reply goes before all others of the room. A unique index lets one reply into
    each of the user's slots. A reply that finds none free is queued and marked: the end of another one queues its task.
    Raises ClaimedElsewhere if another reply is claimed at the same time: this transaction has failed, and a new one
    sees what the other has left.
    """
    values = {"reply_id": reply_id, "lease": lease, "slots": settings().generations_per_user}
    try:
        row: Any = db.session.execute(CLAIM, values).mappings().one_or_none()
    except IntegrityError as error:
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        if constraint in {ONE_OF_A_ROOM, ONE_IN_A_SLOT}:
            raise ClaimedElsewhere from error
        raise
    return None if row is None or row["slot"] is None else Claim(**row)


def renew(claims: Iterable[Claim], *, lease: timedelta) -> set[Claim]:
    """Renew the leases that have used up a third of their time. Returns the claims that are still held.

    A locked row is skipped: its lease counts as held, and is renewed the next time.
    """
    attempts = {(one.reply_id, one.attempt): one for one in claims}
    matches_claim = tuple_(messages.c.id, messages.c.attempt).in_(list(attempts))
    still_held = select(messages.c.id, messages.c.attempt).where(
        matches_claim, messages.c.lease_expires_at.is_not(None)
    )
    due = still_held.where(messages.c.lease_expires_at < func.now() + lease * 2 / 3)
    unlocked = due.with_for_update(skip_locked=True, key_share=True).cte("unlocked")
    renewed = (
        update(messages)
        .where(messages.c.id == unlocked.c.id)
        .values(lease_expires_at=func.now() + lease)
        .returning(messages.c.id)
        .cte("renewed")
    )
    return {attempts[reply_id, attempt] for reply_id, attempt in db.session.execute(still_held.add_cte(renewed))}


def complete(tx: Transaction, claim: Claim, answer: Answer) -> bool:
    """Store the answer. Returns False if the lease is lost."""
    ended = {"status": Status.COMPLETED, "completed_at": claim.now()}
    content = {"text": answer.text, "finish_reason": answer.finish_reason, "model": answer.model}
    stored = write(claim, CLEAR_LEASE | ended | content | asdict(answer.usage), with_cost=True)
    if stored:
        announce_end(tx, claim, Status.COMPLETED)
        if claim.is_untitled:
            tx.enqueue_after_commit(NAME_CHATROOM, str(claim.chatroom_id))
    return stored


def mark_passed_on(claim: Claim) -> bool:
    """Note, before the first piece is published, that a refund is ruled out. Returns False if the lease is lost."""
    return write(claim, {"passed_on": True})


def is_refundable(code: ErrorCode, *, passed_on: bool) -> bool:
    """Whether a reply that fails with this code refunds its prompt. passed_on: whether any of it was published."""
    return code not in NON_REFUNDABLE and not passed_on


def fail(tx: Transaction, claim: Claim, code: ErrorCode) -> bool:
    """Fail the reply, with a refund if one is due. Returns False if the lease is lost."""
    now = claim.now()
    lock_user(claim.user_id)  # before the reply's row: everybody locks in this order
    ended = {"status": Status.FAILED, "error_code": code, "completed_at": now, "failures": claim.failures}
    if not write(claim, CLEAR_LEASE | ended):
        return False
    passed_on = db.session.scalar(select(messages.c.passed_on).where(messages.c.id == claim.reply_id))
    if is_refundable(code, passed_on=bool(passed_on)):
        refund_prompt(claim.reply_id, now)
    announce_end(tx, claim, Status.FAILED)
    return True


def requeue(tx: Transaction, claim: Claim, delay: timedelta) -> bool:
    """Put the reply back into the queue, to be claimed after `delay`. Returns False if the lease is lost."""
    due = claim.now() + delay
    queued = {"status": Status.QUEUED, "not_before": due, "enqueued_at": due, "failures": claim.failures}
    if not write(claim, CLEAR_LEASE | queued):
        return False
    enqueue_generation(tx, claim.reply_id, delay_seconds=delay.total_seconds())
    # An earlier reply that was retried meanwhile may be waiting for this one.
    tx.after_commit(lambda: enqueue_next_replies(claim.chatroom_id, claim.user_id, exclude=claim.reply_id))
    return True


def cancel(tx: Transaction, reply: Message, user_id: UUID, text_so_far: str, now: datetime) -> bool:
    """Cancel a reply and keep the part that was written. Returns False if its state has changed since it was read.

    The caller has locked the user.
    """
    unchanged = (messages.c.id == reply.id, messages.c.status == reply.status, messages.c.attempt == reply.attempt)
    values = CLEAR_LEASE | {"status": Status.CANCELED, "completed_at": now, "not_before": None}
    if text_so_far:
        values |= {"text": text_so_far}
    elif reply.text:  # of an earlier attempt: it must not look like the rest of what followers have read
        values |= {"attempt": messages.c.attempt + 1}
    accepted_at = func.coalesce(messages.c.accepted_at, messages.c.created_at)
    statement = update(messages).where(*unchanged).values(values).returning(messages.c.started_at, accepted_at)
    canceled = db.session.execute(statement).one_or_none()
    if canceled is None:
        return False
    started_at, charged_since = canceled  # an operator's retry is not charged
    if started_at is None:
        refund_prompt(reply.id, now, charged_since=charged_since)
    tx.after_commit(lambda: publish(reply.id, Entry(reply.attempt, status=Status.CANCELED)))
    tx.after_commit(lambda: enqueue_next_replies(reply.chatroom_id, user_id))
    return True


def retry(tx: Transaction, reply: Message, now: datetime) -> None:
    """Queue a failed or canceled reply again. The caller has locked the user and the reply, and charges a prompt."""
    request_values = {"passed_on": False, "request_id": request_id.get(), "traceparent": traceparent.get()}
    for name, value in (queued_again(now) | request_values).items():
        setattr(reply, name, value)
    enqueue_generation(tx, reply.id)


def regenerate(tx: Transaction, room: Chatroom, old: Message, now: datetime) -> Message:
    """Queue a new reply to the prompt of the superseded `old`, at the end of the room.

    The caller has locked the user, the old reply and the room, and charges a prompt.
    """
    reply = new_reply(room.id, cast(UUID, old.in_reply_to), streamed=old.streamed, now=now)
    reply.position, reply.enqueued_at = room.turns, func.now()
    room.turns += 1
    db.session.add(reply)
    enqueue_generation(tx, reply.id)
    return reply


def queued_again(now: datetime) -> dict[str, Any]:
    """Return the values that put a final reply back into the queue. Its waiting time counts from `now`."""
    fresh = {"status": Status.QUEUED, "error_code": None, "failures": 0, "started_at": None, "completed_at": None}
    unknown = {"messages_sent": None, "messages_omitted": None}
    return fresh | unknown | {"accepted_at": now, "not_before": None, "enqueued_at": func.now()}


def retry_failed(tx: Transaction, reply_id: UUID | None, *, until: datetime, now: datetime) -> list[UUID]:
    """Queue a reply that failed by `until` again; without an id, BATCH of them, earliest first. Returns the ids.

    Gemini sees only the turns before each.
    """
    failed = (messages.c.status == Status.FAILED, messages.c.completed_at <= until, ~messages.c.superseded)
    chosen = select(messages.c.id).where(*failed)
    if reply_id is not None:
        chosen = chosen.where(messages.c.id == reply_id)
    chosen = locked_keys(chosen.order_by(messages.c.completed_at).limit(BATCH))
    statement = update(messages).where(messages.c.id.in_(chosen)).values(queued_again(now)).returning(messages.c.id)
    queued = list(db.session.scalars(statement))
    for queued_id in queued:
        enqueue_generation(tx, queued_id)
    return queued


def write(claim: Claim, values: dict[str, object], *, with_cost: bool = False) -> bool:
    """Write to the reply if its lease is still held. Returns False if the lease is lost.

    Once Gemini has been asked, this also stores how many messages it was sent and how many were left out.
    with_cost: note in the ledger what the reply took.
    """
    values = values | (asdict(claim.context) if claim.context else {})
    bound = {f"new_{name}": value for name, value in values.items()}
    statement = fenced_statement(tuple(values), with_cost)
    return db.session.scalar(statement, bound | {"reply": claim.reply_id, "held_attempt": claim.attempt}) is not None


@cache
def fenced_statement(names: tuple[str, ...], with_cost: bool) -> Executable:
    """Return the statement that writes these columns, built once. The fence: the attempt holds the lease."""
    fence = (
        messages.c.id == bindparam("reply"),
        messages.c.attempt == bindparam("held_attempt"),
        messages.c.lease_expires_at.is_not(None),
    )
    values = {name: bindparam(f"new_{name}", type_=messages.c[name].type) for name in names}
    written = update(messages).where(*fence).values(values).returning(messages.c.id)
    if not with_cost:
        return written
    ended = written.cte("ended")
    return select(ended.c.id).add_cte(note_cost(select(ended.c.id).scalar_subquery()).cte("cost"))


def announce_end(tx: Transaction, claim: Claim, status: Status) -> None:
    """Tell the followers of this reply that it has ended, and let the next ones begin."""
    tx.after_commit(lambda: publish(claim.reply_id, Entry(claim.attempt, status=status)))
    tx.after_commit(lambda: enqueue_next_replies(claim.chatroom_id, claim.user_id))
