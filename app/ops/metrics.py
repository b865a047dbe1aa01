"""What `/metrics` tells beyond the web processes' own counts, read from PostgreSQL at the scrape.

Every web process and machine tells the same of it: take `max`, not `sum`, over instances. A feature that has
something to add writes a function that yields metrics and joins SOURCES.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from app.chatrooms.models import ErrorCode, Status
from app.core.clock import utc_now
from app.core.db import DATABASE_GAVE_UP, db, log_database_error
from app.core.metrics import REFUSALS, web_exposition
from app.ops import totals as rollup
from app.ops import totals as statistics
from app.quota.usage import QuotaExceeded

log = logging.getLogger(__name__)

OUTCOMES = (str(Status.COMPLETED), str(Status.CANCELED), *map(str, ErrorCode))

REFUSALS.labels(QuotaExceeded.code)  # a counter that is there before its first refusal can be alarmed on

Source = Callable[[datetime], Iterator[Metric]]


def queue_now(now: datetime) -> Iterator[Metric]:
    """The queue as it is."""
    queue = statistics.queue(now)
    depth = GaugeMetricFamily("replies_unfinished", "Replies that are not finished, by state.", labels=["status"])
    for status, count in queue.by_status.items():
        depth.add_metric([status], count)
    yield depth
    yield GaugeMetricFamily(
        "oldest_due_reply_seconds",
        "How long the oldest reply that a worker could take at once has waited for one; 0 when there is none.",
        value=queue.oldest_due_seconds,
    )


def signs_of_life(now: datetime) -> Iterator[Metric]:
    """How long ago a worker ran a task that beat had queued."""
    last = rollup.last_beat(rollup.BEAT)
    if last is not None:
        age = max(0.0, (now - last).total_seconds())
        yield GaugeMetricFamily("beat_last_tick_seconds", "Seconds since a worker ran a tick of beat's.", value=age)


def finished_replies(_now: datetime) -> Iterator[Metric]:
    """Totals of what has ended; half a minute behind, so that they never shrink."""
    totals = rollup.totals()
    for name, help_text, label, values in (
        ("replies", "Replies that ended, by outcome: completed, canceled, or why they failed.", "outcome", OUTCOMES),
        (
            "gemini_calls",
            "Calls to Gemini for replies that ended, by result.",
            "result",
            ("answered", "refused", "failed"),
        ),
        ("gemini_tokens", "Tokens that Gemini counted, by kind.", "kind", ("prompt", "output")),
    ):
        family = CounterMetricFamily(name, help_text, labels=[label])
        for value in values:
            family.add_metric([value], totals.get((name, value), 0))
        yield family
    yield reply_seconds(totals)


def reply_seconds(totals: dict[tuple[str, str], float]) -> Metric:
    buckets, so_far = [], 0.0
    for bound in (*map(str, statistics.REPLY_SECONDS), "+Inf"):
        so_far += totals.get(("reply_seconds_bucket", bound), 0)
        buckets.append((bound, so_far))
    family = HistogramMetricFamily("reply_seconds", "Seconds from accepting a prompt to its completed reply.")
    family.add_metric([], buckets, sum_value=totals.get(("reply_seconds_sum", ""), 0))
    return family


SOURCES: list[Source] = [queue_now, signs_of_life, finished_replies]


class FromPostgres:
    """A collector for Prometheus' client that asks every source, once a scrape."""

    def collect(self) -> Iterable[Metric]:
        now, answers = utc_now(), 1
        try:
            for source in SOURCES:
                yield from source(now)
        except DATABASE_GAVE_UP as error:
            log_database_error(log, "metrics are few", error)
            db.session.rollback()
            answers = 0
        yield GaugeMetricFamily("postgres_answers", "Whether PostgreSQL answered this scrape.", value=answers)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(FromPostgres())
    return web_exposition() + generate_latest(registry)
