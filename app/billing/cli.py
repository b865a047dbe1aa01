"""`flask billing …`: what an operator does by hand."""

import json
from dataclasses import asdict

import click
from flask.cli import AppGroup

from app.billing import reconciliation
from app.core.clock import utc_now
from app.core.errors import AppError
from app.users.service import user_named

commands = AppGroup("billing", help="Compare the subscriptions with Stripe.")


@commands.command("sync")
@click.argument("user", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def sync(user: str | None, as_json: bool) -> None:
    """Compare our copies with Stripe and correct them.

    USER is an id or a mobile number; without it every customer is compared. Customers that cannot be compared are
    named, and the rest is done all the same; the exit code is 1 then.
    """
    try:
        result = reconciliation.sync_all(user_named(user).id if user else None, now=utc_now())
    except AppError as error:
        raise click.ClickException(error.detail) from error
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        print_result(result)
    if result.failed:
        click.get_current_context().exit(1)


def print_result(result: reconciliation.Comparison) -> None:
    for change in result.corrected:
        click.echo(f"{change.subscription}: {change.before or 'unknown'} -> {change.after}")
    for failure in result.failed:
        click.echo(f"{failure.customer}: not compared. {failure.reason}", err=True)
    if result.left:
        click.echo(f"Stripe does not answer: {result.left} customers are left.", err=True)
    click.echo(f"Compared {result.compared} customers with Stripe, corrected {len(result.corrected)} subscriptions.")
