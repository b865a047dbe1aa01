"""Queueing replies: the statement that stores an accepted prompt, and a reply's task, which carries only the id."""

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Table, bindparam, func, insert, select, update
from uuid_utils.compat import uuid7

from app.chatrooms.models import Message, Role, Status, messages
from app.core.db import TRANSIENT_DATABASE_ERRORS, Model, db, locked_keys, log_database_error
from app.core.tracing import request_id, traceparent
from app.core.transactions import Transaction, release_connection, transaction
from app.generation.queries import chatrooms, has_waiting_replies, take_next_replies

log = logging.getLogger(__name__)

GENERATE_REPLY = "messages.generate_reply"
NAME_CHATROOM = "chatrooms.name"  # a chore

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

    Call it after that end is committed: a task that ran earlier would be refused its claim, and only a sweep would
    queue it again. If PostgreSQL fails, a sweep queues them.
    """
    try:
        if not has_waiting_replies(chatroom_id, user_id):
            return
        with transaction() as tx:
            chosen = {reply_id for reply_id in take_next_replies(chatroom_id, user_id) if reply_id != exclude}
            if chosen:
                mark_enqueued(messages.c.id.in_(chosen), func.now())
            for reply_id in chosen:
                enqueue_generation(tx, reply_id)
    except TRANSIENT_DATABASE_ERRORS as error:
        log_database_error(log, "a sweep will queue the replies that waited for one to end", error)
    finally:
        release_connection()


def mark_enqueued(condition: ColumnElement[bool], at: datetime | ColumnElement[datetime]) -> Sequence[UUID]:
    """Note when the matching replies' tasks are queued, by PostgreSQL's clock. Skips locked rows. Returns the ids."""
    unlocked = locked_keys(select(messages.c.id).where(condition))
    statement = update(messages).where(messages.c.id.in_(unlocked)).values(enqueued_at=at)
    return db.session.scalars(statement.returning(messages.c.id)).all()
