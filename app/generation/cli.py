"""`flask replies …`, `flask gemini …`: how an operator looks at failed replies, retries them, and checks Gemini."""

import time
from dataclasses import asdict
from uuid import UUID

import click

from app.core import settings
from app.core.clock import utc_now
from app.core.commands import CommandGroup, json_lines, json_option, table
from app.generation.runner import configured_client, read_seconds
from app.generation.service import failed_replies, retry_failed
from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import ClientNotConfigured, ModelError, ModelUnavailable, ReplyEmpty, Turn

COLUMNS = ("id", "error_code", "attempts", "failed_at", "request_id")

REFUSED, NO_ANSWER = 1, 3  # exit codes; 2 is click's, for a wrong command line
QUESTION = "Name the first three prime numbers."

replies = CommandGroup("replies", help="List failed replies, and generate them again.")
gemini = CommandGroup("gemini", help="Check the connection to Gemini.")


@replies.command("failed")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many to list.")
@json_option
def list_failed(limit: int, as_json: bool) -> None:
    """List the latest failed replies, newest first, and why they failed. Shows nothing of the conversations."""
    rows = failed_replies(limit=limit)
    if rows:
        click.echo(json_lines(rows) if as_json else table(rows, COLUMNS))
    elif not as_json:
        click.echo("No reply has failed.")


@replies.command("retry")
@click.argument("reply_id", required=False, type=click.UUID)
@click.option("--all", "retry_all", is_flag=True, help="Retry every failed reply.")
def retry(reply_id: UUID | None, retry_all: bool) -> None:
    """Generate a failed reply again (REPLY_ID), or all of them (--all), at no charge to the users."""
    if (reply_id is None) != retry_all:
        raise click.UsageError("Give either a REPLY_ID or --all.")
    started_at = utc_now()  # replies that fail again meanwhile are left alone
    queued = retry_failed(reply_id, until=started_at, now=started_at)
    while retry_all and (more := retry_failed(None, until=started_at, now=utc_now())):
        queued += more
    if reply_id and not queued:
        raise click.ClickException(f"{reply_id} is not a failed reply.")
    click.echo(f"{len(queued)} {'reply is' if len(queued) == 1 else 'replies are'} queued again.")


@gemini.command("check")
@click.option("--model", help="The model to ask instead of GEMINI_MODEL.")
@click.option("--stream", "streamed", is_flag=True, help="Stream the answer.")
def check(model: str | None, streamed: bool) -> None:
    """Ask Gemini one small question, as a worker would, and report the time and the tokens that the answer took.

    The exit code is 0 if Gemini answers, 1 if it refuses the key, the model or the request, and 3 if it gives no answer
    now: it is busy, out of quota, unreachable, too slow, or answers without text.
    """
    began = time.monotonic()
    pieces: list[float] = []
    try:
        with BoundedCall(settings().gemini_timeout) as call:
            answer = configured_client(model).generate(
                [Turn("user", QUESTION)],
                call,
                read_seconds=read_seconds(streamed=streamed),
                on_piece=(lambda _: pieces.append(time.monotonic() - began)) if streamed else None,
            )
    except (ModelError, ClientNotConfigured) as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        raise SystemExit(NO_ANSWER if isinstance(error, ModelUnavailable | ReplyEmpty) else REFUSED) from None
    seconds = time.monotonic() - began
    facts: dict[str, object] = {
        "answer": " ".join(answer.text.split()),
        "model": answer.model,
        "finish_reason": answer.finish_reason,
        "seconds_to_first_piece": round(pieces[0] if pieces else seconds, 3),
        "seconds": round(seconds, 3),
    }
    for name, value in (facts | asdict(answer.usage)).items():
        click.echo(f"{name}: {value}")
