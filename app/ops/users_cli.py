"""`flask users …`: what an operator does about accounts."""

from dataclasses import asdict
from datetime import UTC, datetime, time, timedelta

import click
from flask.cli import AppGroup

from app.account import service as account
from app.billing.grants import grant_pro, revoke_pro
from app.billing.service import tier_of
from app.core.clock import utc_now
from app.core.errors import AppError
from app.core.tables import json_lines, table
from app.ops import users as operations
from app.users.cli import user_named

MAX_REASON_CHARS = 255

users = AppGroup(
    "users",
    help="Find users, give and take Pro, delete accounts.\n\n"
    "USER is a user's id, or the mobile number in any international spelling (in quotes when it has spaces).",
)


USER = click.argument("who", metavar="USER")


@users.command("find")
@USER
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def find(who: str, as_json: bool) -> None:
    """Show a user with tier and grants of Pro.

    Nothing of the conversations is shown.
    """
    now, user = utc_now(), user_named(who)
    found = asdict(operations.summary(user, now=now))
    grants = operations.grants(user, now=now)
    if as_json:
        click.echo(json_lines([{"kind": "user"} | found, *({"kind": "grant"} | grant for grant in grants)]))
        return
    click.echo(table([{"field": name, "value": value} for name, value in found.items()], ("field", "value")))
    if grants:
        click.echo("\n" + table(grants, ("state", "reason", "created_at", "ends_at", "revoked_at")))


@users.command("grant-pro")
@USER
@click.option("--reason", required=True, help="Why it is given; kept with the grant.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), metavar="YYYY-MM-DD", help="Its last day, in UTC.")
@click.option("--days", type=click.IntRange(1, 3_660), help="How many days it lasts, from now.")
def grant(who: str, reason: str, until: datetime | None, days: int | None) -> None:
    """Give a user Pro by hand, without a subscription.

    Without --until and --days it has no end. A subscription at Stripe is not touched.

    \b
    Example:
      flask users grant-pro +14155552671 --reason "Two days without service" --days 2
    """
    now, user = utc_now(), user_named(who)
    if until and days:
        raise click.UsageError("Say --until or --days, not both.")
    ends_at = now + timedelta(days=days) if days else None
    if until:
        ends_at = datetime.combine(until.date() + timedelta(days=1), time.min, UTC)
    if ends_at is not None and ends_at <= now:
        raise click.BadParameter("That day is in the past.", param_hint="--until")
    if not 1 <= len(reason.strip()) <= MAX_REASON_CHARS:
        raise click.BadParameter(f"Give a reason of 1 to {MAX_REASON_CHARS} characters.", param_hint="--reason")
    if user.verified_at is None:  # the next signup replaces the user, id and all
        raise click.ClickException(f"{user.id} has not verified the number yet; grant Pro after that.")
    grant_pro(user.id, reason=reason.strip(), ends_at=ends_at, now=now)
    click.echo(f"{user.id} is Pro {f'until {ends_at:%Y-%m-%d %H:%M} UTC' if ends_at else 'until it is revoked'}.")


@users.command("revoke-pro")
@USER
def revoke(who: str) -> None:
    """End the grants of Pro that a user has.

    A subscription at Stripe is not touched: whoever pays stays Pro.
    """
    now, user = utc_now(), user_named(who)
    revoked = revoke_pro(user.id, now=now)
    if not revoked:
        raise click.ClickException(f"{user.id} has no active grant.")
    click.echo(f"{revoked} {'grant' if revoked == 1 else 'grants'} revoked; {user.id} is now {tier_of(user.id, now)}.")


@users.command("delete")
@USER
@click.option("--yes", is_flag=True, help="Delete without asking.")
def delete(who: str, yes: bool) -> None:
    """Delete an account with all that is its own.

    As its owner could: its subscription is canceled at Stripe first; then chatrooms, messages and sessions go.
    """
    user = user_named(who)
    if not yes:
        click.confirm(f"Delete {user.id} ({user.mobile}) for good?", abort=True)
    user_id = user.id
    try:
        account.delete_account(user_id, now=utc_now())
    except AppError as error:
        raise click.ClickException(error.detail) from error
    click.echo(f"{user_id} is deleted.")
