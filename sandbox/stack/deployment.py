"""The whole stack for tests and tools: with processes that can be killed one by one, or as `make run` starts it.

`Deployment` is for chaos and the benchmarks; `reachable_api` and `own_stack` are for the tour and CI.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import psutil
import redis
from dotenv import dotenv_values

from sandbox.stack import processes
from sandbox.stack.folder import stack_folder
from sandbox.stack.postgres import PostgresServer
from sandbox.stack.processes import ROOT, StackError, comes_up, free_port, procfile_commands, says_ok, wait_until
from sandbox.stack.run import MIGRATION_SECONDS, READY_SECONDS
from sandbox.stack.servers import ValkeyServer
from sandbox.stack.settings import DEFAULT_PORT, MIGRATE, given_environment, process_environment
from sandbox.stand_ins import GeminiStandIn, running_gemini_stand_in

START_SECONDS = 90.0
# Longer than the stack's own deadlines, because its own messages say more.
LONGEST_START_SECONDS = START_SECONDS + MIGRATION_SECONDS + READY_SECONDS
STOP_SECONDS = 60.0


class Deployment:
    """PostgreSQL, Valkey, the Gemini stand-in, and the processes of the Procfile.

    logs: the folder for each process's log and for temporary files. workers: how many run, as `worker`, `worker-2` and
    so on.
    """

    postgres: PostgresServer
    valkey: ValkeyServer
    gemini: GeminiStandIn

    def __init__(self, logs: Path, *, workers: int = 1, environ: Mapping[str, str] | None = None) -> None:
        self.logs = logs
        self.url = f"http://127.0.0.1:{free_port()}"
        self._environ = dict(environ or {})
        self._commands = procfile_commands(ROOT / "Procfile")
        self.workers = ["worker", *(f"worker-{number}" for number in range(2, workers + 1))]
        self._commands |= dict.fromkeys(self.workers, self._commands["worker"])
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self.postgres = exits.enter_context(PostgresServer())
            self.valkey = exits.enter_context(ValkeyServer(append_only=False))
            self.gemini = exits.enter_context(running_gemini_stand_in(pace=0))
            exits.callback(self._end_all)
            self._migrate()
            for name in self._commands:
                self.start(name)
            self._wait_until_ready()
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the product's processes."""
        own = {
            "APP_ENV": "development",
            "ENV_FILE": os.devnull,  # the developer's own file may name the real Stripe and real senders of codes
            "FLASK_SKIP_DOTENV": "1",
            "OTP_DELIVERY": "response",
            "STRIPE_SECRET_KEY": "",
            "PORT": self.url.rsplit(":", 1)[1],
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "JWT_SECRET": "a-secret-for-crashes-and-benchmarks-only",
            "GEMINI_API_KEY": "sandbox-key",
            "GEMINI_API_ENDPOINT": self.gemini.url,
            "RATE_LIMIT_PER_MINUTE": "0",
            "TMPDIR": str(self.logs),  # killed processes do not clean up
            **self._environ,
        }
        return process_environment(os.environ, own)

    def start(self, name: str) -> None:
        """Start a process of the Procfile."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = processes.spawn(self._commands[name], output=log, env=self.environ, cwd=ROOT)

    def kill(self, name: str) -> None:
        """Kill a process and its children, as a crash does (SIGKILL)."""
        process = self._running.pop(name)
        processes.kill_group(process.pid)
        process.wait()

    def end(self, name: str, *, seconds: float) -> bool:
        """Ask a process to stop, and kill it if it has not after `seconds`. Returns whether it stopped in time."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        in_time = wait_until(lambda: process.poll() is not None, seconds=seconds)
        processes.kill_group(process.pid)
        process.wait()
        return in_time

    def silent_workers(self, *, seconds: float) -> list[str]:
        """Return the workers that take no task within `seconds` from now."""
        begun = time.time()

        def silent() -> list[str]:
            with redis.Redis.from_url(self.valkey.url) as client:
                taken_at = dict(cast(Any, client.zrange("workers", 0, -1, withscores=True)))
            return [
                name
                for name in self.workers
                if taken_at.get(f"{socket.gethostname()}:{self._running[name].pid}".encode(), 0) < begun
            ]

        wait_until(lambda: not silent(), seconds=seconds)
        return silent()

    def process_ids(self, name: str) -> list[int]:
        """Return the ids of a process and its children."""
        return [process.pid for process in processes.family(self._running[name].pid)]

    def memory_mb(self, name: str) -> float:
        """Return the resident memory of a process and its children in MiB; shared pages count in each process."""
        return float(sum(one.memory_info().rss for one in processes.family(self._running[name].pid)) / 2**20)

    def cpu_seconds(self, name: str) -> float:
        """Return the CPU time that a process and its children have used."""
        return cpu_seconds(processes.family(self._running[name].pid))

    def _migrate(self) -> None:
        done = subprocess.run(
            MIGRATE, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False, timeout=MIGRATION_SECONDS
        )
        if done.returncode:
            raise StackError(f"The migrations failed:\n{done.stderr}")

    def _wait_until_ready(self) -> None:
        def ready() -> bool:
            takes_tasks = all(b" ready." in (self.logs / f"{name}.log").read_bytes() for name in self.workers)
            return takes_tasks and says_ok(f"{self.url}/readyz")

        if not wait_until(ready, seconds=START_SECONDS):
            raise StackError(f"The stack did not start; its logs are in {self.logs}.")

    def _end_all(self) -> None:
        for name in list(self._running):
            self.kill(name)


def cpu_seconds(family: Iterable[psutil.Process]) -> float:
    """Return the CPU time that some processes have used."""
    times = [process.cpu_times() for process in family]
    return float(sum(time.user + time.system for time in times))


@contextmanager
def reachable_api(environ: Mapping[str, str], say: Callable[[str], None]) -> Iterator[str]:
    """Yield the address of an API that answers: at BASE_URL, of the running stack, or of one started for the block.

    Raises StackError if BASE_URL does not answer, or no stack can be started.
    """
    given = given_environment(ROOT, environ)
    base_url = given.get("BASE_URL", "").rstrip("/")
    if base_url:
        if not says_ok(f"{base_url}/healthz"):
            raise StackError(f"Nothing answers at BASE_URL {base_url}.")
        yield base_url
        return
    port = wanted_port(given)
    if says_ok(f"http://127.0.0.1:{port}/healthz"):
        yield f"http://127.0.0.1:{port}"
        return
    say("Nothing runs here yet: starting the stack for the tour …")
    with own_stack(environ, preferred_port=port) as address:
        yield address


@contextmanager
def own_stack(environ: Mapping[str, str], *, preferred_port: int | None = None) -> Iterator[str]:
    """Run `python -m sandbox.stack` during the block, and yield its address.

    It uses the data of `make run`, or the folder that SANDBOX_VAR names.
    Raises StackError with the last lines of the stack's log if it does not start.
    """
    port = free_port(preferred_port)
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        stack = processes.spawn(
            [sys.executable, "-m", "sandbox.stack"],
            output=log,
            env={**environ, "PORT": str(port), "PYTHONUNBUFFERED": "1"},
            cwd=ROOT,
        )
        try:
            if not comes_up(stack, lambda: says_ok(f"{address}/readyz"), seconds=LONGEST_START_SECONDS):
                log.seek(0)
                last_words = log.read().decode(errors="replace").strip().splitlines()[-5:]
                raise StackError("\n".join(["The stack did not start:", *last_words]))
            yield address
        finally:
            processes.stop(stack, signal.SIGTERM, seconds=STOP_SECONDS)


def wanted_port(given: Mapping[str, str]) -> int:
    """Return PORT, else the port of the stack that runs here, else the default. Raises StackError."""
    running = dotenv_values(stack_folder() / "stack.env")
    text = given.get("PORT") or running.get("PORT") or str(DEFAULT_PORT)
    try:
        return int(text)
    except ValueError:
        raise StackError(f"PORT is {text!r}, but must be a number.") from None
