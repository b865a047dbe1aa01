"""`flask health` for orchestrators; for operators `flask users …`, `flask billing …` and `flask usage …`."""

import csv
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy import func, select

from app.account import service as account
from app.auth.events import events_before
from app.billing.models import ProGrant
from app.billing.reconciliation import Comparison, sync_all
from app.billing.tier import grant_pro, grants_of, revoke_pro, tier_of
from app.chatrooms.models import Chatroom
from app.core.clock import utc_now
from app.core.commands import CommandGroup, json_lines, json_option, table
from app.core.db import db
from app.ops.health import checks
from app.quota.ledger import COUNTED, usage_report
from app.users.models import User
from app.users.service import find_user, find_user_by_mobile, to_e164

MAX_REASON_CHARS = 255
GRANT_COLUMNS = ("reason", "created_at", "ends_at", "revoked_at")

users = CommandGroup(
    "users",
    help="Find users, list their security events, grant and revoke Pro, delete accounts.\n\n"
    "USER is a user's id, or the mobile number in any international spelling (in quotes if it has spaces).",
)
billing = CommandGroup("billing", help="Compare subscriptions with Stripe.")
usage = CommandGroup("usage", help="Report the tokens that prompts took, and their cost.")
user_argument = click.argument("who", metavar="USER")
DAY = click.DateTime(["%Y-%m-%d"])


def resolve_user(id_or_mobile: str) -> User:
    """The user with an id, or a number in any international spelling. Raises click.BadParameter."""
    mobile = to_e164(id_or_mobile)
    try:
        found = find_user_by_mobile(mobile) if mobile else find_user(UUID(id_or_mobile))
    except ValueError:
        found = None
    if found is None:
        raise click.BadParameter(f"{id_or_mobile!r} is neither the id nor the number of a user.", param_hint="USER")
    return found


def seconds_option(name: str, default: float, text: str) -> Callable[[Any], Any]:
    """An option of `flask health`: the most that still passes."""
    return click.option(name, default=default, show_default=True, type=click.FloatRange(min=0), help=text)


@click.command("health")
# Gemini may be slow; replies that no worker takes for a minute mean that there is none.
@seconds_option("--max-queued", 60.0, "Fail if a due reply has waited longer than this many seconds.")
# Six ticks: a restart of beat or of all workers is shorter.
@seconds_option("--max-tick", 60.0, "Fail if no worker has run beat's tick for this many seconds.")
# beat queues a task every few seconds for any worker: an idle one soon gets one.
@seconds_option("--max-worker", 600.0, "Fail if a worker process has taken no task for this many seconds.")
@json_option
@with_appcontext
def health(max_queued: float, max_tick: float, max_worker: float, as_json: bool) -> None:
    """Check whether replies are being generated.

    Meant for worker and beat, which have no port to probe.

    \b
    Exit code 0: all is well.
    Exit code 1: PostgreSQL or Redis does not answer, or answers with an error.
    Exit code 2: a due reply has waited too long. There is no worker, or all are stuck.
    Exit code 3: beat's tick has not run lately. Beat, the broker or all workers are down, and no sweep runs.
    Exit code 4: a worker process takes no tasks, or was killed within the last hour; others may do its work.

    If several checks fail, the exit code is the smallest of theirs.
    """
    found = checks(
        now=utc_now(), max_queued_seconds=max_queued, max_tick_seconds=max_tick, max_worker_seconds=max_worker
    )
    rows = [
        {"check": check.name, "result": "passed" if check.passed else "FAILED", "measured": check.measured}
        for check in found
    ]
    click.echo(json_lines(rows) if as_json else table(rows, ("check", "result", "measured")))
    sys.exit(min((check.exit_code for check in found if not check.passed), default=0))


@users.command("find")
@user_argument
@json_option
def find(who: str, as_json: bool) -> None:
    """Show a user, with the tier and the grants of Pro.

    Shows nothing of the conversations.
    """
    now, user = utc_now(), resolve_user(who)
    summary, grants = summary_of(user, now), [grant_fields(grant, now) for grant in reversed(grants_of(user.id))]
    if as_json:
        click.echo(json_lines([{"kind": "user"} | summary, *({"kind": "grant"} | grant for grant in grants)]))
        return
    click.echo(table([{"field": name, "value": value} for name, value in summary.items()], ("field", "value")))
    if grants:
        click.echo("\n" + table(grants, ("state", *GRANT_COLUMNS)))


def summary_of(user: User, now: datetime) -> dict[str, object]:
    """A user as operators see one."""
    chatrooms = db.session.scalar(select(func.count()).select_from(Chatroom).where(Chatroom.user_id == user.id)) or 0
    return {
        "id": user.id,
        "mobile": user.mobile,
        "name": user.name,
        "tier": tier_of(user.id, now),
        "chatrooms": chatrooms,
        "created_at": user.created_at,
        "verified_at": user.verified_at,
    }


def grant_fields(grant: ProGrant, now: datetime) -> dict[str, object]:
    """A grant of Pro as operators see one."""
    if grant.revoked_at is not None:
        state = "revoked"
    else:
        state = "expired" if grant.ends_at is not None and grant.ends_at <= now else "active"
    return {"state": state} | {name: getattr(grant, name) for name in GRANT_COLUMNS}


@users.command("events")
@user_argument
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000), help="How many to list.")
@json_option
def events(who: str, limit: int, as_json: bool) -> None:
    """List an account's security events of the last 90 days, newest first."""
    fields = ("type", "created_at", "ip", "user_agent")
    found = events_before(resolve_user(who).id, None, limit=limit, now=utc_now())
    rows = [{name: getattr(event, name) for name in fields} for event in found]
    click.echo(json_lines(rows) if as_json else table(rows, fields))


@users.command("grant-pro")
@user_argument
@click.option("--reason", required=True, help="Why Pro is granted; stored with the grant.")
@click.option("--days", type=click.IntRange(1, 3_660), help="How many days the grant lasts, from now.")
def grant(who: str, reason: str, days: int | None) -> None:
    """Grant a user Pro without a subscription.

    Without --days, the grant has no end. A subscription at Stripe is not touched.

    \b
    Example:
      flask users grant-pro +14155552671 --reason "Two days without service" --days 2
    """
    now, user = utc_now(), resolve_user(who)
    ends_at = now + timedelta(days=days) if days else None
    if not 1 <= len(reason.strip()) <= MAX_REASON_CHARS or not reason.isprintable():
        raise click.BadParameter(f"Give 1 to {MAX_REASON_CHARS} printable characters.", param_hint="--reason")
    if user.verified_at is None:  # the next signup replaces the user, id and all
        raise click.ClickException(f"{user.id} has not verified the mobile number yet. Grant Pro once it is verified.")
    grant_pro(user.id, reason=reason.strip(), ends_at=ends_at, now=now)
    click.echo(f"{user.id} is Pro {f'until {ends_at:%Y-%m-%d %H:%M} UTC' if ends_at else 'until it is revoked'}.")


@users.command("revoke-pro")
@user_argument
def revoke(who: str) -> None:
    """End a user's grants of Pro.

    A subscription at Stripe is not touched: a paying user stays Pro.
    """
    now, user = utc_now(), resolve_user(who)
    revoked = revoke_pro(user.id, now=now)
    if not revoked:
        raise click.ClickException(f"{user.id} has no active grant.")
    click.echo(f"{revoked} {'grant' if revoked == 1 else 'grants'} revoked; {user.id} is now {tier_of(user.id, now)}.")


@users.command("delete")
@user_argument
@click.option("--yes", is_flag=True, help="Delete without asking for confirmation.")
def delete(who: str, yes: bool) -> None:
    """Delete an account with everything it owns.

    Does what a request by its owner does: cancels the subscription at Stripe, then deletes chatrooms, messages and
    sessions.
    """
    user = resolve_user(who)
    user_id = user.id
    if not yes:
        click.confirm(f"Delete {user_id} ({user.mobile}) for good?", abort=True)
    account.delete_account(user_id, now=utc_now())
    click.echo(f"{user_id} is deleted.")


@billing.command("sync")
@click.argument("user", required=False)
@json_option
def sync(user: str | None, as_json: bool) -> None:
    """Compare our copies of subscriptions with Stripe, and correct them.

    USER is an id or a mobile number; without it, every customer is compared. If a customer cannot be compared, it is
    listed, the others are still compared, and the exit code is 1.
    """
    result = sync_all(resolve_user(user).id if user else None, now=utc_now())
    if as_json:
        click.echo(json_lines([asdict(result)]))
    else:
        print_comparison(result)
    if result.failed:
        sys.exit(1)


def print_comparison(result: Comparison) -> None:
    for change in result.corrected:
        click.echo(f"{change.subscription}: {change.before or 'unknown'} -> {change.after}")
    for failure in result.failed:
        click.echo(f"{failure.customer}: not compared. {failure.reason}", err=True)
    if result.left:
        click.echo(f"Stripe does not answer: {result.left} customers were not reached.", err=True)
    click.echo(f"Compared {result.compared} customers with Stripe, corrected {len(result.corrected)} subscriptions.")


@usage.command("report")
@click.option("--from", "first", type=DAY, required=True, help="The first day (UTC), like 2026-11-01.")
@click.option("--to", "last", type=DAY, required=True, help="The last day, inclusive.")
@click.option("--by", type=click.Choice(["day", "model", "tier"]), default="day", show_default=True)
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, for programs.")
def report(first: datetime, last: datetime, by: str, as_csv: bool) -> None:
    """Report the tokens that everybody's prompts took, and their cost by MODEL_PRICES.

    Shows no cost where a price is missing. Refunded prompts are left out, unless `flask replies retry` had them
    answered later.
    """
    if last < first:
        raise click.UsageError("--to is before --from.")
    rows, columns = usage_report(first.date(), last.date(), by), (by, *COUNTED, "cost")
    for row in rows:
        row["cost"] = None if row["cost"] is None else row["cost"].quantize(Decimal("0.0001"))
    if not as_csv:
        click.echo(table(rows, columns))
        return
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
