"""The web processes' own metrics, for Prometheus.

With PROMETHEUS_MULTIPROC_DIR set (gunicorn.conf.py sets it) each process writes its numbers into a file there, and any
of them can serve the sum; without it a process knows its own. A feature that counts something in the web process
declares a Counter in its own module; what happens in workers is counted from PostgreSQL (app/ops/metrics.py). Labels
come from small fixed sets, never from the client.
"""

import os
import struct
import time

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

READ_AGAIN_AFTER_SECONDS = (0.01, 0.05, 0.25)

REQUESTS = Counter("http_requests", "Requests by route and status.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "http_request_duration_seconds",
    "Seconds from the request to the end of its answer, waits and streams included.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60),
)
REFUSALS = Counter("http_errors", "Answers that were problem documents, by their code.", ["code"])


def web_exposition() -> bytes:
    """The web processes' numbers in Prometheus' text format.

    Tries again while the file of a new process is still empty: prometheus_client raises struct.error on it.
    """
    for pause_seconds in READ_AGAIN_AFTER_SECONDS:
        try:
            return generate_latest(web_registry())
        except struct.error:
            time.sleep(pause_seconds)
    return generate_latest(web_registry())


def web_registry() -> CollectorRegistry:
    """The registry with the numbers of all web processes, or of this one."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
