"""The worker's entry points: sending codes. Every task may run twice."""

from uuid import UUID

from celery import shared_task

from app.auth import otp
from app.core.clock import utc_now


@shared_task(name=otp.SEND_CODE)
def send_code(code_id: str) -> None:
    """Send a code's message, unless it was already sent or the code has ended."""
    otp.send_message(UUID(code_id), now=utc_now())


@shared_task(name="auth.sweep")
def sweep() -> None:
    """Queue tasks for messages that are still unsent."""
    otp.enqueue_unsent(utc_now())
