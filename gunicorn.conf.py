"""How gunicorn serves: every choice with its reason."""

import os
from typing import Any

from gunicorn.http.wsgi import Response

bind = f"0.0.0.0:{os.environ.get('PORT', '5000')}"
# Threads, because `Prefer: wait` and streams hold a request open without using the CPU.
worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = int(os.environ.get("WEB_THREADS", "256"))
timeout = 60
graceful_timeout = 25  # Render sends SIGKILL 30 s after SIGTERM
keepalive = 75
max_requests = 50_000  # a slow leak never matters; the jitter keeps workers from leaving together
max_requests_jitter = 5_000
control_socket_disable = True
accesslog = None
limit_request_line = 8190  # as long as gunicorn bounds it at all: what is longer is answered before the product
forwarded_allow_ips = ""  # TRUSTED_PROXIES decides whom to believe, in one place

# What serves is nobody's business, and gunicorn has no setting for it.
with_banner = Response.default_headers


def without_banner(response: Response) -> list[str]:
    return [header for header in with_banner(response) if not header.startswith("Server:")]


Response.default_headers = without_banner


def post_fork(_server: Any, worker: Any) -> None:
    """A connection must never be shared by two processes: each worker opens its own."""
    from app.core.database import db  # noqa: PLC0415 - only once the worker is there

    with worker.app.wsgi().app_context():
        db.engine.dispose(close=False)


def post_worker_init(worker: Any) -> None:
    """Let open streams end when their worker is to end, on SIGTERM as on recycling."""
    from app.core import draining  # noqa: PLC0415 - only once the worker is there

    draining.watch(lambda: not worker.alive)
