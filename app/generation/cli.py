"""`flask replies …`: what an operator does about failed replies."""

from dataclasses import asdict
from uuid import UUID

import click
from flask.cli import AppGroup

from app.core.cli import json_lines, table
from app.core.clock import utc_now
from app.generation.queries import failed_replies
from app.generation.service import retry_failed

COLUMNS = ("id", "error_code", "attempts", "failed_at", "request_id")

replies = AppGroup("replies", help="Look at replies that failed, and generate them again.")


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
