"""`flask billing …`: what an operator does by hand."""

import json
from uuid import UUID

import click
from flask.cli import AppGroup

from app.billing import reconciliation
from app.core.clock import utc_now
from app.core.errors import AppError
from app.users.mobile_numbers import to_e164
from app.users.queries import find_user_by_mobile

commands = AppGroup("billing", help="Payments.")


@commands.command("sync")
@click.argument("user", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def sync(user: str | None, as_json: bool) -> None:
    """Compare our copies with Stripe and mend them.

    USER is an id or a mobile number; without it every customer is compared.
    """
    try:
        compared, mended = reconciliation.sync_all(parse_user(user) if user else None, now=utc_now())
    except AppError as error:
        raise click.ClickException(error.detail) from error
    if as_json:
        changes = [
            {"subscription": change.subscription_id, "before": change.before, "after": change.after}
            for change in mended
        ]
        click.echo(json.dumps({"compared": compared, "mended": changes}))
        return
    for change in mended:
        click.echo(f"{change.subscription_id}: {change.before or 'unknown'} -> {change.after}")
    click.echo(f"Compared {compared} customers with Stripe, mended {len(mended)} subscriptions.")


def parse_user(text: str) -> UUID:
    """The user's id. Raises click.BadParameter when there is nobody."""
    mobile = to_e164(text)
    found = find_user_by_mobile(mobile) if mobile else None
    if found is not None:
        return found.id
    try:
        return UUID(text)
    except ValueError:
        raise click.BadParameter("Neither a user's id nor the number of one.", param_hint="USER") from None
