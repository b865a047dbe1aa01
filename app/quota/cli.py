"""`flask usage …`: what an operator asks of everybody's prompts."""

import csv
import io
from datetime import datetime
from decimal import Decimal

import click
from flask.cli import AppGroup

from app.core.cli import table
from app.quota.history import COUNTED, usage_report

commands = AppGroup("usage", help="What prompts took, and what they cost.")
DAY = click.DateTime(["%Y-%m-%d"])


@commands.command("report")
@click.option("--from", "first", type=DAY, required=True, help="The first day (UTC), as 2026-11-01.")
@click.option("--to", "last", type=DAY, required=True, help="The last day, included.")
@click.option("--by", type=click.Choice(["day", "model", "tier"]), default="day", show_default=True)
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, for programs.")
def report(first: datetime, last: datetime, by: str, as_csv: bool) -> None:
    """What everybody's prompts took in tokens, and their cost by MODEL_PRICES.

    A cost is not told where a price is missing. Prompts that were given back are not in it.
    """
    if last < first:
        raise click.UsageError("--to is before --from.")
    rows, columns = usage_report(first.date(), last.date(), by), (by, *COUNTED, "cost")
    for row in rows:
        row["cost"] = None if row["cost"] is None else row["cost"].quantize(Decimal("0.0001"))
    if not as_csv:
        click.echo(table(rows, columns))
        return
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    click.echo(written.getvalue(), nl=False)
