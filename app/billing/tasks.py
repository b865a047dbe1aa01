"""The worker's entry points to this feature."""

from celery import shared_task

from app.billing import reconciliation
from app.core.clock import utc_now


@shared_task(name="billing.sync")
def sync() -> None:
    """Repair what lost events left wrong; delete old event ids. May run twice."""
    reconciliation.sync_due(now=utc_now())
    reconciliation.forget_old_events(now=utc_now())
