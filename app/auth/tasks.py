"""The worker's doors to this feature. Every task takes ids, and may run twice."""

import logging
from uuid import UUID

from celery import shared_task

from app.auth import delivery, sweeping
from app.core.clock import utc_now
from app.core.database import DATABASE_AWAY
from app.core.logs import first_line

log = logging.getLogger(__name__)


@shared_task(name=delivery.SEND_CODE)
def send_code(code_id: str) -> None:
    """Send a code's message; does nothing when it was sent, or when the code has ended."""
    delivery.send_code(UUID(code_id), now=utc_now())


@shared_task(name="auth.sweep")
def sweep() -> None:
    """Ring again for messages that wait; throw away codes, counters and sessions that are over."""
    try:
        delivery.ring_again(utc_now())
        sweeping.sweep(now=utc_now())
    except DATABASE_AWAY as error:
        log.warning("PostgreSQL is away (%s); the next sweep will do", first_line(error))
