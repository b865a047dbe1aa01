"""The worker's entry points to this feature. Every task may run twice."""

import logging

from celery import shared_task

from app.billing import reconciliation, webhook
from app.billing.stripe_connection import PaymentProviderError
from app.core.clock import utc_now
from app.core.errors import ServiceUnavailable

log = logging.getLogger(__name__)


@shared_task(name=webhook.APPLY_EVENT)
def apply_event(event_id: str) -> None:
    """Apply one of Stripe's events, unless it was already applied. If Stripe fails, the sweep tries it again."""
    try:
        webhook.apply_event(event_id, now=utc_now())
    except (PaymentProviderError, ServiceUnavailable) as error:
        log.warning("Stripe's event %s is not applied yet; a sweep will retry it: %s", event_id, error.detail)


@shared_task(name="billing.sweep_events")
def sweep_events() -> None:
    """Apply the events that are due."""
    webhook.sweep_events(now=utc_now())


@shared_task(name="billing.sync")
def sync() -> None:
    """Repair what lost events left wrong."""
    reconciliation.sync_due(now=utc_now())
