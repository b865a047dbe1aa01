"""How gunicorn serves: every choice with its reason.

Read by the master before the application is loaded. What may differ from machine to machine is a variable.
"""

import atexit
import os
import shutil
import sys
import tempfile
from typing import Any

from gunicorn import glogging
from gunicorn.http.wsgi import Response

from config import ConfigError, load_settings

# A process that could not load the application would leave a master that listens for nobody.
try:
    settings = load_settings()
except ConfigError as error:
    sys.exit(f"Configuration: {error}")

# ── Where ────────────────────────────────────────────────────────────────────
bind = f"0.0.0.0:{settings.port}"
# TRUSTED_PROXIES decides whom to believe, in one place.
forwarded_allow_ips = ""

# ── How many ─────────────────────────────────────────────────────────────────
# Threads, because `Prefer: wait` and streams hold a request open without using the CPU. `sync` would need a
# process for each of them, ignores keep-alive, and takes a long wait for a hang.
worker_class = "web_worker.WebWorker"  # gunicorn's gthread, which refuses as the application does
# A process for each core at hand, two at least: one Python process computes on one core at a time, and with two a
# process that ends is not missed. More than the cores would only share them.
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
workers = int(os.environ.get("WEB_CONCURRENCY") or max(2, min(cores, 8)))
# As many requests and streams as may wait at once in one process; each costs a thread's stack and no CPU. Many
# threads that compute at once cost throughput (the interpreter's lock): this is no place to make a service faster.
threads = int(os.environ.get("WEB_THREADS") or "256")
SPARE_THREADS = 16  # for everybody else, when as many streams are open as may be

# ── How long ─────────────────────────────────────────────────────────────────
# A process whose main thread says nothing for this long is killed. Its threads may take longer: waits are 20 seconds.
timeout = 60
# After SIGTERM requests may end in peace. Platforms send SIGKILL 30 seconds after SIGTERM.
graceful_timeout = 25
# Longer than a load balancer's own idle time (60 seconds is common), so that it is never the one to be surprised.
keepalive = 75
# A slow leak never matters; the jitter keeps the processes from leaving all at once.
max_requests = 50_000
max_requests_jitter = 5_000

# ── What else ────────────────────────────────────────────────────────────────
# The heartbeat's file lives in memory where there is such a place: on a disk that hangs, a healthy process would
# look dead and be killed.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None  # noqa: S108 # nosec B108
control_socket_disable = True  # it would be a file in a home folder, for nobody to use
accesslog = None  # the application writes a line for each request, and knows more
limit_request_line = 8190  # as long as gunicorn bounds it at all: what is longer is answered before the product


PREPARED = "METRICS_PREPARED"  # by which master, and the folder it made, as `pid:folder`


def prepare_metrics() -> None:
    """Give the processes a folder for their numbers; each adds to its own file, and any can tell the sum."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    master, _, made = os.environ.get(PREPARED, "").partition(":")
    if master == str(os.getpid()):  # on SIGHUP this file is read again, while processes count
        return
    if folder and folder != made:
        made = ""
        if "GUNICORN_PID" not in os.environ:  # after SIGUSR2 the predecessor's processes still count there
            empty(folder)
    else:
        made = tempfile.mkdtemp(prefix="metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = made
        atexit.register(remove_at_the_end, made, os.getpid())
    os.environ[PREPARED] = f"{os.getpid()}:{made}"


def empty(folder: str) -> None:
    """Take the numbers of an earlier run out of a folder that somebody else keeps."""
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        if name.endswith(".db"):
            os.unlink(os.path.join(folder, name))


def remove_at_the_end(folder: str, master: int) -> None:
    if os.getpid() == master:
        shutil.rmtree(folder, ignore_errors=True)


prepare_metrics()


class Logger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's own lines go where all others go, in the same form."""

    def setup(self, cfg: Any) -> None:
        from app.core.logging import configure_logging, log_through_root  # noqa: PLC0415 - after `prepare_metrics`

        super().setup(cfg)
        configure_logging(level="INFO", as_json=settings.logs_json)
        log_through_root("gunicorn.error", "gunicorn.access")


logger_class = Logger


# What serves is nobody's business, and gunicorn has no setting for it.
with_banner = Response.default_headers


def without_banner(response: Response) -> list[str]:
    return [header for header in with_banner(response) if not header.startswith("Server:")]


Response.default_headers = without_banner


def post_fork(_server: Any, worker: Any) -> None:
    """A connection must never be shared by two processes: each worker opens its own."""
    from app.core.db import db  # noqa: PLC0415 - only once the worker is there

    app = worker.app.wsgi()
    with app.app_context():
        db.engine.dispose(close=False)
    leave_threads(app.extensions, worker.log if worker.age == 1 else None)  # one of them says it for all


def leave_threads(extensions: dict[str, Any], log: Any) -> None:
    """Streams hold a thread each: allow fewer than STREAMS_PER_PROCESS rather than keep everybody else waiting."""
    wanted, at_most = extensions["settings"].streams_per_process, max(threads // 2, threads - SPARE_THREADS)
    if wanted <= at_most:
        return
    extensions["settings"] = extensions["settings"].model_copy(update={"streams_per_process": at_most})
    if log:
        log.warning(f"WEB_THREADS is {threads}, which allows {at_most} streams, not STREAMS_PER_PROCESS ({wanted}).")


def post_worker_init(worker: Any) -> None:
    """Let open streams end when their worker is to end, on SIGTERM as on recycling."""
    from app.core import http as draining  # noqa: PLC0415 - only once the worker is there

    draining.watch(lambda: not worker.alive)


def child_exit(_server: Any, worker: Any) -> None:
    """What a process counted stays counted; what it was at that moment goes with it."""
    from prometheus_client import multiprocess  # noqa: PLC0415 - after `prepare_metrics`

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
