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

# Loaded here first: a process that cannot load the application would leave a master without workers.
settings = load_settings()


# ── Where ────────────────────────────────────────────────────────────────────
bind = f"0.0.0.0:{settings.port}"
# Only TRUSTED_PROXIES decides which forwarded headers are believed. On a unix socket gunicorn trusts every peer, so
# none of these headers may mean anything to it.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""

# ── How many ─────────────────────────────────────────────────────────────────
# Threads, because `Prefer: wait` and streams hold a request open without using the CPU. `sync` would need a
# process for each of them, ignores keep-alive, and mistakes a long wait for a hang.
worker_class = "web_worker.WebWorker"  # gunicorn's gthread, with the application's error answers
# One process per available core, because a Python process computes on one core at a time; more would only share the
# cores. At least two, so that one is left when another ends. At most eight, since a container may see the cores of the
# whole machine.
MAX_PROCESSES = 256
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
workers = int(os.environ.get("WEB_CONCURRENCY") or max(2, min(cores, 8)))
if not 1 <= workers <= MAX_PROCESSES:  # with 0 nothing would answer
    raise ConfigError(f"WEB_CONCURRENCY is wrong: must be a whole number from 1 to {MAX_PROCESSES}.")
# How many requests and streams may wait in one process at once; each costs a thread's stack and no CPU. More threads
# do not make a service faster: only one of them computes at a time.
threads = settings.web_threads
# Includes idle connections. With gunicorn's 1,000, more threads would be useless, and no connection kept alive.
worker_connections = max(1_000, 2 * threads)
# A connection needs a file descriptor, and a thread up to three: to wait for its client, to follow a reply, to write an
# export. A process that has none left ends at the next connection, with all its requests. Many systems allow 1,024 by
# default, and more on request.
wanted_descriptors = worker_connections + 3 * threads + 200
allowed_descriptors, most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
if allowed_descriptors < wanted_descriptors:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted_descriptors, most_descriptors), most_descriptors))

# The application is loaded once; processes share its memory until they write to it. Nothing connects before the fork.
preload_app = True

# ── How long ─────────────────────────────────────────────────────────────────
# A process whose main thread is silent for this long is killed. Other threads may take longer (waits: up to 20 s).
timeout = 60
# How long requests may take to end after SIGTERM. Platforms send SIGKILL 30 seconds after SIGTERM.
graceful_timeout = 25
# Longer than proxies keep an idle connection, so that they never send a request on one that closes. AWS and nginx keep
# them for 60 seconds, Traefik 90, Caddy 120, Google 600, Cloudflare 900. Clients without a proxy in between try again.
keepalive = 930 if settings.trusted_proxies else 75
# So that a slow leak never matters; the jitter keeps the processes from restarting all at once.
max_requests = 50_000
max_requests_jitter = 5_000

# ── What else ────────────────────────────────────────────────────────────────
# The heartbeat's file lives in memory where possible: on a disk that hangs, a healthy process would
# look dead and be killed.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None  # noqa: S108 # nosec B108
control_socket_disable = True  # it would be a file in a home folder that nobody uses
accesslog = None  # the application logs each request, with more fields
limit_request_line = 8190  # gunicorn's maximum

# ── Memory ───────────────────────────────────────────────────────────────────
# The 19 MiB that comparing a password takes go back to the system at once. glibc would keep them in the heap of each
# thread that ever did (https://man7.org/linux/man-pages/man3/mallopt.3.html). Other systems have no such call.
M_MMAP_THRESHOLD, LARGE_BYTES = -3, 1024 * 1024
with suppress(OSError, AttributeError):
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)

# ── Metrics ──────────────────────────────────────────────────────────────────
# Each process writes its numbers into files of its own, and any process can serve the sums. By default
# prometheus_client names the files by process id, and keeps those of all processes that ever ran. Here a process
# continues the files of the one that it replaces. The folder is in memory where possible: on a full disk, a process
# that writes to it ends. A reload reads this file again, and keeps the folder. Its name is a new one, because earlier
# releases remove any `gemini-backend-numbers-…` that is not locked.
METRICS_FOLDER = "gemini-backend-metrics-"


def lock_folder(folder: Path) -> None:
    """Lock a folder until this process and its children have ended, by a descriptor that stays open until then.

    Raises OSError if somebody else holds it, or if it is gone.
    """
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_folder() -> str:
    """Make the master's own folder, and remove those of masters that were killed: nobody holds their locks."""
    parent = Path(worker_tmp_dir or tempfile.gettempdir())
    for old_folder in parent.glob(f"{METRICS_FOLDER}*"):
        with suppress(OSError):
            lock_folder(old_folder)
            shutil.rmtree(old_folder)
    new_folder = Path(tempfile.mkdtemp(dir=parent))  # renamed once it is locked, so that no other master removes it
    with suppress(OSError):  # if locks do not work there, nobody removes it either
        lock_folder(new_folder)
    return str(new_folder.rename(parent / f"{METRICS_FOLDER}{new_folder.name}"))


if "prometheus_client" not in sys.modules:
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"] = make_folder()
    # gunicorn's `on_exit` is not called when the port is taken or the application cannot be loaded.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    from prometheus_client import values  # it looks for the folder now

    values.ValueClass = values.MultiProcessValue(lambda: current_process().name)  # type: ignore[no-untyped-call]


def pre_fork(server: Any, worker: Any) -> None:
    """Give a new process the lowest free index."""
    taken = {other.index for other in server.WORKERS.values()}
    worker.index = next(index for index in itertools.count() if index not in taken)


# ── Logs ─────────────────────────────────────────────────────────────────────
class Logger(glogging.Logger):  # type: ignore[misc]
    """Sends gunicorn's own lines through the application's logging."""

    def setup(self, cfg: Any) -> None:
        from app.core.logging import configure_logging  # noqa: PLC0415 - once the variable is set

        super().setup(cfg)
        configure_logging(level="INFO", as_json=settings.logs_json)
        for logger in (self.error_log, self.access_log):  # their records take the same way as all others
            logger.handlers.clear()
            logger.propagate = True


logger_class = Logger


def when_ready(server: Any) -> None:
    """Keep garbage collections from writing to shared memory, and warn about a setting that was reduced."""
    gc.collect()
    gc.freeze()
    wanted, allowed = settings.streams_per_process, settings.streams_allowed
    if wanted > allowed:
        warning = "WEB_THREADS is %d, which allows %d streams, not STREAMS_PER_PROCESS (%d)."
        server.log.warning(warning, threads, allowed, wanted)


# ── Workers ──────────────────────────────────────────────────────────────────
def post_fork(_server: Any, worker: Any) -> None:
    """Leave the folder's removal to the master, and drop its database connections, which must not be shared."""
    from app.core.db import db  # noqa: PLC0415 - only in the worker

    atexit.unregister(shutil.rmtree)
    os.makedirs(os.environ["PROMETHEUS_MULTIPROC_DIR"], exist_ok=True)  # many machines remove old files
    current_process().name = f"web-{worker.index}"
    with worker.app.wsgi().app_context():
        db.engine.dispose(close=False)


def post_worker_init(worker: Any) -> None:
    """End open streams when their worker is about to end, both on SIGTERM and on recycling."""
    from app.core import http  # noqa: PLC0415 - only in the worker

    http.add_drain_signal(lambda: not worker.alive)
