"""The worker's entry point to operations."""

from celery import shared_task

from app.core.clock import utc_now
from app.ops import totals as rollup


@shared_task(name="ops.tick")
def tick() -> None:
    """Show that beat, broker and a worker are alive, and count what has ended."""
    rollup.tick(utc_now())
