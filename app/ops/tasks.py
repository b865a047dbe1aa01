"""The worker's entry point."""

from celery import shared_task

from app.core.clock import database_now
from app.ops import totals


@shared_task(name="ops.tick")
def tick() -> None:
    """Record that beat, broker and a worker are alive, and count what has ended."""
    totals.tick(database_now())
