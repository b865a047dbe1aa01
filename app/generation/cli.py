"""Use cases of an operator: look at failed replies, and have them generated again.

`flask replies …`: what an operator does about failed replies.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

import click
from flask.cli import AppGroup
from sqlalchemy import select, update

from app.chatrooms.models import ErrorCode, Status, messages
from app.core.cli import json_lines, table
from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from app.generation.state import enqueue_reply

BATCH = 500


@dataclass(frozen=True)
class FailedReply:
    """A reply that failed; nothing of the conversation."""

    id: UUID
    chatroom_id: UUID
    error_code: ErrorCode
    attempts: int
    created_at: datetime
    failed_at: datetime
    request_id: str | None


def failed_replies(*, limit: int) -> Sequence[FailedReply]:
    """The replies that failed last, newest first."""
    statement = (
        select(
            messages.c.id,
            messages.c.chatroom_id,
            messages.c.error_code,
            messages.c.attempt,
            messages.c.created_at,
            messages.c.completed_at,
            messages.c.request_id,
        )
        .where(messages.c.status == Status.FAILED)
        .order_by(messages.c.completed_at.desc())
        .limit(limit)
    )
    return [FailedReply(*row) for row in db.session.execute(statement)]


def retry_failed(reply_ids: Sequence[UUID] | None, *, until: datetime, now: datetime) -> list[UUID]:
    """Put replies that failed up to `until` back into the queue, at no charge; the ids of those.

    reply_ids: None for all of them, BATCH at a time. Each sees only the turns before it.
    """
    chosen = select(messages.c.id).where(messages.c.status == Status.FAILED, messages.c.completed_at <= until)
    if reply_ids is not None:
        chosen = chosen.where(messages.c.id.in_(reply_ids))
    chosen = chosen.order_by(messages.c.completed_at).limit(BATCH).with_for_update(skip_locked=True)
    statement = (
        update(messages)
        .where(messages.c.id.in_(chosen))
        .values(
            status=Status.QUEUED,
            error_code=None,
            failures=0,
            accepted_at=now,
            started_at=None,
            not_before=now,  # it waits from now on, for whoever looks at ages
            completed_at=None,
            enqueued_at=now,
        )
        .returning(messages.c.id)
    )
    with transaction() as current:
        queued = list(db.session.scalars(statement))
        for reply_id in queued:
            enqueue_reply(current, reply_id)
    return queued


COLUMNS = ("id", "error_code", "attempts", "failed_at", "request_id")

replies = AppGroup("replies", help="Look at replies that failed, and have them generated again.")


@replies.command("failed")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many, newest first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def list_failed(limit: int, as_json: bool) -> None:
    """List the replies that failed last, with why. Shows nothing of the conversations."""
    rows = [asdict(row) for row in failed_replies(limit=limit)]
    if rows:
        click.echo(json_lines(rows) if as_json else table(rows, COLUMNS))
    elif not as_json:
        click.echo("No reply has failed.")


@replies.command("retry")
@click.argument("reply_id", required=False, type=click.UUID)
@click.option("--all", "everything", is_flag=True, help="Every failed reply.")
def retry(reply_id: UUID | None, everything: bool) -> None:
    """Generate a failed reply again (REPLY_ID), or all of them (--all). Costs its user nothing."""
    if (reply_id is None) != everything:
        raise click.UsageError("Name one reply, or say --all.")
    begun = utc_now()  # what fails again meanwhile is left alone
    queued = retry_failed([reply_id] if reply_id else None, until=begun, now=begun)
    while everything and (more := retry_failed(None, until=begun, now=utc_now())):
        queued += more
    if reply_id and not queued:
        raise click.ClickException(f"{reply_id} is not a failed reply.")
    click.echo(f"{len(queued)} {'reply is' if len(queued) == 1 else 'replies are'} queued again.")
