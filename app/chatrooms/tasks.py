"""The worker's entry point to this feature. It may run twice."""

from datetime import datetime

from celery import shared_task

from app.chatrooms.idempotency import forget_old_keys
from app.core.clock import utc_now
from app.core.transactions import transaction

BATCH = 500


@shared_task(name="messages.sweep_keys")  # its first name, which a beat of the version before queues
def sweep_keys() -> None:
    """Delete old idempotency keys."""
    sweep_idempotency_keys(now=utc_now())


def sweep_idempotency_keys(*, now: datetime) -> int:
    """Delete up to BATCH keys past their lifetime; how many."""
    with transaction():
        return forget_old_keys(now, at_most=BATCH)
