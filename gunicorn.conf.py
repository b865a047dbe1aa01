"""gunicorn's configuration. The master reads it before the application is loaded, and again on SIGHUP."""

import atexit
import ctypes
import fcntl
import gc
import itertools
import os
import resource
import shutil
import sys
import tempfile
from contextlib import suppress
from multiprocessing import current_process
from pathlib import Path
from typing import Any

from gunicorn import glogging

from config import ConfigError, load_settings

# A process that cannot load the application would leave a master without workers.
settings = load_settings()


# ── Where ────────────────────────────────────────────────────────────────────
bind = f"0.0.0.0:{settings.port}"
# Only TRUSTED_PROXIES decides which forwarded headers are believed.
forwarded_allow_ips = ""

# ── How many ─────────────────────────────────────────────────────────────────
# Threads, because `Prefer: wait` and streams hold a request open without using the CPU. `sync` would need a
# process for each of them, ignores keep-alive, and mistakes a long wait for a hang.
worker_class = "web_worker.WebWorker"  # gunicorn's gthread, with the application's error answers
# A process for each core at hand, two at least: one Python process computes on one core at a time, and with two a
# process that ends is not missed. More than the cores would only share them. Eight at most, since a container may see
# the cores of the whole machine.
MAX_PROCESSES = 256
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
workers = int(os.environ.get("WEB_CONCURRENCY") or max(2, min(cores, 8)))
if not 1 <= workers <= MAX_PROCESSES:  # with 0 nobody would answer
    raise ConfigError(f"WEB_CONCURRENCY is wrong: must be a whole number from 1 to {MAX_PROCESSES}.")
# As many requests and streams as may wait at once in one process; each costs a thread's stack and no CPU. More
# threads do not make a service faster: one of them computes at a time.
threads = settings.web_threads
# Also those on which no request runs. With gunicorn's 1,000 more threads would be of no use, and none be kept alive.
worker_connections = max(1_000, 2 * threads)
# A connection is a file descriptor, and a thread opens up to three: to wait for its client, to follow a reply, to write
# an export. A process without a free one ends at the next connection, with all its requests. Many systems allow 1,024,
# but more to whoever asks.
wanted_descriptors = worker_connections + 3 * threads + 200
allowed_descriptors, most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
if allowed_descriptors < wanted_descriptors:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted_descriptors, most_descriptors), most_descriptors))

# The application is loaded once and shared by the processes until they write to it; nothing connects before the fork.
preload_app = True

# ── How long ─────────────────────────────────────────────────────────────────
# A process whose main thread says nothing for this long is killed. Its threads may take longer: waits are 20 seconds.
timeout = 60
# How long requests may take to end after SIGTERM. Platforms send SIGKILL 30 seconds after SIGTERM.
graceful_timeout = 25
# Longer than a load balancer's idle time (60 seconds is common), which then never sends on a closed connection.
keepalive = 75
# So that a slow leak never matters; the jitter keeps the processes from restarting all at once.
max_requests = 50_000
max_requests_jitter = 5_000

# ── What else ────────────────────────────────────────────────────────────────
# The heartbeat's file lives in memory where possible: on a disk that hangs, a healthy process would
# look dead and be killed.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None  # noqa: S108 # nosec B108
control_socket_disable = True  # it would be a file in a home folder that nobody uses
accesslog = None  # the application logs each request, with more fields
limit_request_line = 8190  # the most that gunicorn bounds

# ── Memory ───────────────────────────────────────────────────────────────────
# What comparing a password takes, 19 MiB, goes back to the system at once. glibc would keep it in a heap of each thread
# that ever did (https://man7.org/linux/man-pages/man3/mallopt.3.html). Other systems have no such call.
M_MMAP_THRESHOLD, LARGE_BYTES = -3, 1024 * 1024
with suppress(OSError, AttributeError):
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)

# ── Metrics ──────────────────────────────────────────────────────────────────
# Each process writes its numbers into files of its own, and any of them can serve the sum. Left to itself
# prometheus_client names files by process id, and keeps those of all processes that ever were. Here a process goes on
# with those of the one whose place it takes. The folder is in memory where possible: on a full disk a process ends that
# writes to it. A reload reads this file again, and keeps the folder. Earlier releases remove what they find under
# another name, `gemini-backend-numbers-…`, unless it is locked.
METRICS_FOLDER = "gemini-backend-metrics-"


def hold(folder: Path) -> None:
    """Lock a folder until this process and its children have ended, for which its descriptor stays open.

    Raises OSError: somebody else holds it, or it is gone.
    """
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_folder() -> str:
    """Make the master's own folder, and remove those of masters that were killed: nobody holds them."""
    parent = Path(worker_tmp_dir or tempfile.gettempdir())
    for left in parent.glob(f"{METRICS_FOLDER}*"):
        with suppress(OSError):
            hold(left)
            shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(dir=parent))  # renamed once it is locked, so that no other master removes it
    with suppress(OSError):  # without locks there, nobody removes it either
        hold(made)
    return str(made.rename(parent / f"{METRICS_FOLDER}{made.name}"))


if "prometheus_client" not in sys.modules:
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"] = make_folder()
    # gunicorn's `on_exit` is not called when the port is taken or the application cannot be loaded.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    from prometheus_client import values  # it looks for the folder now

    values.ValueClass = values.MultiProcessValue(lambda: current_process().name)  # type: ignore[no-untyped-call]


def pre_fork(server: Any, worker: Any) -> None:
    """Give a new process the lowest place that is free."""
    taken = {other.place for other in server.WORKERS.values()}
    worker.place = next(place for place in itertools.count() if place not in taken)


# ── Logs ─────────────────────────────────────────────────────────────────────
class Logger(glogging.Logger):  # type: ignore[misc]
    """Sends gunicorn's own lines through the application's logging."""

    def setup(self, cfg: Any) -> None:
        from app.core.logging import configure_logging  # noqa: PLC0415 - once the variable is set

        super().setup(cfg)
        configure_logging(level="INFO", as_json=settings.logs_json)
        for logger in (self.error_log, self.access_log):  # their records go the way of all others
            logger.handlers.clear()
            logger.propagate = True


logger_class = Logger


def when_ready(server: Any) -> None:
    """Let no garbage collection write to what the processes share; say which setting was reduced."""
    gc.collect()
    gc.freeze()
    wanted, allowed = settings.streams_per_process, settings.streams_allowed
    if wanted > allowed:
        said = "WEB_THREADS is %d, which allows %d streams, not STREAMS_PER_PROCESS (%d)."
        server.log.warning(said, threads, allowed, wanted)


# ── Workers ──────────────────────────────────────────────────────────────────
def post_fork(_server: Any, worker: Any) -> None:
    """Leave the master's folder to it, and drop its database connections, which two processes must not share."""
    from app.core.db import db  # noqa: PLC0415 - only in the worker

    atexit.unregister(shutil.rmtree)
    os.makedirs(os.environ["PROMETHEUS_MULTIPROC_DIR"], exist_ok=True)  # old files are cleaned up on many machines
    current_process().name = f"web-{worker.place}"
    with worker.app.wsgi().app_context():
        db.engine.dispose(close=False)


def post_worker_init(worker: Any) -> None:
    """End open streams when their worker is about to end, on SIGTERM as on recycling."""
    from app.core import http  # noqa: PLC0415 - only in the worker

    http.add_drain_signal(lambda: not worker.alive)
