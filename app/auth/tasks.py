"""The worker's entry points to this feature. Every task takes ids, and may run twice."""

from uuid import UUID

from celery import shared_task

from app.auth import delivery, sweeping
from app.core.clock import utc_now


@shared_task(name=delivery.SEND_CODE)
def send_code(code_id: str) -> None:
    """Send a code's message; does nothing when it was sent, or when the code has ended."""
    delivery.send_code(UUID(code_id), now=utc_now())


@shared_task(name="auth.sweep")
def sweep() -> None:
    """Queue what waits to be sent again; delete codes, counters and sessions that are over."""
    delivery.enqueue_unsent(utc_now())
    sweeping.sweep(now=utc_now())
