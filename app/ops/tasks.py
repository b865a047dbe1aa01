"""The worker's door to operations."""

import logging

from celery import shared_task

from app.core.clock import utc_now
from app.core.database import DATABASE_AWAY
from app.core.logs import first_line
from app.ops import rollup

log = logging.getLogger(__name__)


@shared_task(name="ops.tick")
def tick() -> None:
    """Show that beat, broker and a worker are alive, and count what has ended."""
    try:
        rollup.tick(utc_now())
    except DATABASE_AWAY as error:
        log.warning("PostgreSQL is away (%s); the next tick will do", first_line(error))
