"""The worker's entry point to this feature. It may run twice."""

from celery import shared_task

from app.chatrooms.idempotency import forget_old_keys
from app.core.clock import utc_now


@shared_task(name="messages.sweep_keys")  # its first name, which a beat of the version before queues
def sweep_keys() -> None:
    """Delete old idempotency keys."""
    forget_old_keys(now=utc_now())
