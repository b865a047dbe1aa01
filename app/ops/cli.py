"""`flask health`: what an orchestrator asks about worker and beat, which have no port to knock at."""

import sys

import click
from flask.cli import with_appcontext

from app.core.clock import utc_now
from app.core.tables import json_lines, table
from app.ops.health import Check, checks

MAX_QUEUED_SECONDS = 60.0  # Gemini may be slow; replies that nobody takes for a minute mean that nobody is there
MAX_TICK_SECONDS = 60.0  # six ticks: a restart of beat or of all workers is shorter
MAX_WORKER_SECONDS = 600.0  # beat asks for a task every 2 s, and any worker takes it: no idle one goes without for long


@click.command("health")
@click.option(
    "--max-queued",
    default=MAX_QUEUED_SECONDS,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that a reply may wait for a worker when it could be generated.",
)
@click.option(
    "--max-tick",
    default=MAX_TICK_SECONDS,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that may have passed since a worker ran a tick of beat's.",
)
@click.option(
    "--max-worker",
    default=MAX_WORKER_SECONDS,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that a worker process may go without taking a task.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@with_appcontext
def health(max_queued: float, max_tick: float, max_worker: float, as_json: bool) -> None:
    """Say whether replies are being generated.

    \b
    Exit code 0: all is well.
    Exit code 1: PostgreSQL or Redis does not answer.
    Exit code 2: replies wait too long: there is no worker, or all are stuck.
    Exit code 3: no tick of beat's has run lately. Replies are made, but lost ones are not found again.
    Exit code 4: a worker process takes no tasks, or was killed within the last hour; others may do its work.

    Of several codes the smallest is given.
    """
    found = checks(
        now=utc_now(), max_queued_seconds=max_queued, max_tick_seconds=max_tick, max_worker_seconds=max_worker
    )
    rows = [row_of(check) for check in found]
    click.echo(json_lines(rows) if as_json else table(rows, ("check", "result", "measured")))
    sys.exit(min((check.exit_code for check in found if not check.passed), default=0))


def row_of(check: Check) -> dict[str, object]:
    result = "passed" if check.passed else "FAILED"
    return {"check": check.name, "result": result, "measured": check.measured}
