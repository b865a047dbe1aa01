"""`/metrics`: the web processes' own numbers, and those of the queue and the workers, read from PostgreSQL.

Where gunicorn.conf.py has set PROMETHEUS_MULTIPROC_DIR, each web process writes its numbers into a file there, and any
of them can serve the sum; elsewhere a process knows only its own. Each counter is defined in the module that counts.
Labels come from small fixed sets, never from the client.
Every web process and machine serves the same numbers from PostgreSQL: take `max`, not `sum`, over instances.
"""

import logging
import os
import struct
import time
from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from app.auth.otp import oldest_unsent
from app.billing.webhook import oldest_unapplied
from app.chatrooms.models import ErrorCode, Status
from app.core.clock import database_now
from app.core.db import TRANSIENT_DATABASE_ERRORS, db, log_database_error
from app.core.errors import REFUSALS
from app.ops import totals
from app.quota.usage import QuotaExceeded

OUTCOMES = (str(Status.COMPLETED), str(Status.CANCELED), *map(str, ErrorCode))
COUNTERS = (
    ("replies", "Replies that ended, by outcome: completed, canceled, or why they failed.", "outcome", OUTCOMES),
    ("gemini_calls", "Calls to Gemini for replies that ended, by result.", "result", ("answered", "refused", "failed")),
    ("gemini_tokens", "Tokens that Gemini counted, by kind.", "kind", totals.TOKEN_KINDS),
)
READ_AGAIN_AFTER_SECONDS = (0.01, 0.05, 0.25)

log = logging.getLogger(__name__)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    REFUSALS.labels(QuotaExceeded.code)  # alerts need the counter before its first refusal
    registry = CollectorRegistry()
    registry.register(FromPostgres())
    return web_exposition() + generate_latest(registry)


def web_exposition() -> bytes:
    """The web processes' numbers in Prometheus' text format.

    Tries again while a new process's file is still empty, for which prometheus_client raises struct.error, or when a
    file is removed meanwhile (FileNotFoundError).
    """
    for pause_seconds in READ_AGAIN_AFTER_SECONDS:
        try:
            return generate_latest(web_registry())
        except (struct.error, FileNotFoundError):
            time.sleep(pause_seconds)
    return generate_latest(web_registry())


def web_registry() -> CollectorRegistry:
    """The registry with the numbers of all web processes, or of this one."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    os.makedirs(os.environ["PROMETHEUS_MULTIPROC_DIR"], exist_ok=True)  # many machines remove old files
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


class FromPostgres:
    """A collector for prometheus_client that queries PostgreSQL once a scrape."""

    def collect(self) -> Iterable[Metric]:
        answers = 1
        try:
            now = database_now()  # the clock of heartbeats and leases
            yield from queue(now)
            yield from heartbeat(now)
            yield from work_that_waits(now)
            yield from ended_replies()
        except TRANSIENT_DATABASE_ERRORS as error:
            log_database_error(log, "this scrape lacks the metrics that are read from PostgreSQL", error)
            db.session.rollback()
            answers = 0
        yield GaugeMetricFamily("postgres_answers", "1 if PostgreSQL answered this scrape, else 0.", value=answers)


def queue(now: datetime) -> Iterator[Metric]:
    """The replies that are not finished."""
    current = totals.queue(now)
    depth = GaugeMetricFamily("replies_unfinished", "Unfinished replies, by status.", labels=["status"])
    for status, count in current.by_status.items():
        depth.add_metric([status], count)
    yield depth
    yield GaugeMetricFamily(
        "oldest_due_reply_seconds",
        "Seconds that the oldest due reply, which a worker could take at once, has waited; 0 if none is due.",
        value=current.oldest_due_seconds,
    )
    yield GaugeMetricFamily(
        "oldest_unfinished_reply_seconds",
        "Seconds since the oldest unfinished reply was asked for; 0 if there is none.",
        value=current.oldest_seconds,
    )


def heartbeat(now: datetime) -> Iterator[Metric]:
    """How long ago a worker ran a tick that beat had queued."""
    age = max(0.0, totals.seconds_since_tick(now))
    yield GaugeMetricFamily("beat_last_tick_seconds", "Seconds since a worker last ran beat's tick.", value=age)


def work_that_waits(now: datetime) -> Iterator[Metric]:
    """How long Stripe's events and codes wait for a worker: meanwhile tiers may be wrong, and nobody gets a code."""
    for name, what, since in (
        ("oldest_unapplied_stripe_event_seconds", "unapplied Stripe event was received", oldest_unapplied()),
        ("oldest_unsent_code_seconds", "unsent one-time code that has not expired was issued", oldest_unsent(now)),
    ):
        seconds = max(0.0, (now - since).total_seconds()) if since else 0
        yield GaugeMetricFamily(name, f"Seconds since the oldest {what}; 0 if there is none.", value=seconds)


def ended_replies() -> Iterator[Metric]:
    """Totals of what has ended. They are half a minute behind, so that no reply is committed too late to be counted."""
    amounts = totals.read_totals()
    for name, help_text, label, values in COUNTERS:
        family = CounterMetricFamily(name, help_text, labels=[label])
        for value in values:
            family.add_metric([value], amounts.get((name, value), 0))
        yield family
    by_model = CounterMetricFamily("gemini_model_tokens", "Tokens by kind and model.", labels=["kind", "model"])
    for (name, value), amount in sorted(amounts.items()):
        if name == "gemini_model_tokens":
            by_model.add_metric(value.split(":", 1), amount)
    yield by_model
    buckets, so_far = [], 0.0
    for bound in (*map(str, totals.REPLY_SECONDS), "+Inf"):
        so_far += amounts.get(("reply_seconds_bucket", bound), 0)
        buckets.append((bound, so_far))
    histogram = HistogramMetricFamily("reply_seconds", "Seconds from accepting a prompt to its completed reply.")
    histogram.add_metric([], buckets, sum_value=amounts.get(("reply_seconds_sum", ""), 0))
    yield histogram
