"""`var/`: the folder for everything that must survive a restart, used by one stack at a time."""

import fcntl
import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.stack import processes
from sandbox.stack.processes import ROOT, StackError, wait_until

_CLOCK_SLACK_SECONDS = 1.0
_LEFTOVER_SECONDS = 4.0  # leftovers were told to stop when their runner was killed, and their servers are gone
_HANDOVER_SECONDS = 1.0  # for a runner that is just exiting


class Lock:
    """The right to use `var/`, and the record of what runs under it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._started: dict[str, tuple[int, float]] = {}

    def record(self, name: str, pid: int) -> None:
        """Record a process, so that the next start can end it if this one is killed."""
        self._started[name] = (pid, processes.started_at(pid) or 0.0)
        self._write({"pid": os.getpid(), "processes": self._started})

    def end_leftovers(self) -> None:
        """End what a killed stack left running. A process id that now belongs to another process is left alone."""
        left = _recorded(self._path).get("processes", {})
        orphans = [pid for pid, began in left.values() if _is_same(pid, began)]
        processes.end_orphans(orphans, signal.SIGTERM, seconds=_LEFTOVER_SECONDS)
        self._write({"pid": os.getpid()})

    def clear(self) -> None:
        """Forget everything: nothing runs any more."""
        os.ftruncate(self._descriptor, 0)

    def _write(self, content: object) -> None:
        text = json.dumps(content).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


def stack_folder() -> Path:
    """Return `var/` of the checkout, or the folder that SANDBOX_VAR names, which shares nothing with `make run`."""
    return ROOT / (os.environ.get("SANDBOX_VAR") or "var")


@contextmanager
def locked(var: Path) -> Iterator[Lock]:
    """Lock `var/` during the block. The system drops the lock with the process, so a stale one never blocks.

    Raises StackError if the folder cannot be written to, or another stack holds the lock.
    """
    try:
        var.mkdir(exist_ok=True)
        descriptor = os.open(var / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StackError(f"Cannot write to {var}: {error.strerror}. The data goes there.") from None
    try:
        if not wait_until(lambda: _try_lock(descriptor), seconds=_HANDOVER_SECONDS):
            holder = _recorded(var / "run.lock").get("pid", "unknown")
            raise StackError(f"Already running here (pid {holder}).")
        lock = Lock(var / "run.lock", descriptor)
        lock.end_leftovers()
        try:
            yield lock
        finally:
            lock.clear()
            _hand_over(var)
    finally:
        os.close(descriptor)


def _is_same(pid: int, began: float) -> bool:
    now = processes.started_at(pid)
    return now is not None and abs(now - began) < _CLOCK_SLACK_SECONDS


def _hand_over(var: Path) -> None:
    """Give what root has written to the folder's owner, who may start the next stack without root."""
    owner = var.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in var.rglob("*"):
            if path.lstat().st_uid == 0:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _recorded(path: Path) -> dict[str, Any]:
    """Return what a stack wrote into its lock; empty if it stopped cleanly."""
    try:
        return dict(json.loads(path.read_text()))
    except ValueError:
        return {}


def kept_secret(path: Path) -> str:
    """Return a random secret that is the same at every start, in a file that only its owner can read."""
    path.touch(mode=0o600)
    if not path.read_text():
        path.write_text(secrets.token_urlsafe(48))
    return path.read_text()
