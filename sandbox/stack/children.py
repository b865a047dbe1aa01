"""Child processes that the terminal's Ctrl-C does not reach and that end with their parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from sandbox.stack.accounts import Account
from sandbox.stack.waiting import wait_until

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def spawn(
    command: Sequence[str],
    *,
    output: int | IO[bytes],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    farewell: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, with `output` for both of its streams.

    account: who runs it, when that is somebody else than us (needs root).
    farewell: the signal it gets when we die without stopping it (Linux only).
    """

    def end_with_parent() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(farewell))

    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=cwd,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509 - one prctl call, which takes no lock
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def kill_group(leader_pid: int) -> None:
    """Kill what is left of the session that a process started by `spawn` leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)


def stop(
    process: subprocess.Popen[bytes],
    how: signal.Signals,
    *,
    seconds: float,
    hurried: Callable[[], bool] = lambda: False,
) -> None:
    """Ask a process to end, and kill it when it has not after `seconds` or when `hurried` says so."""
    if process.poll() is None:
        process.send_signal(how)
        wait_until(lambda: process.poll() is not None or hurried(), seconds=seconds)
    kill_group(process.pid)
    process.wait()


def end_orphans(pids: Iterable[int], how: signal.Signals, *, seconds: float) -> None:
    """End processes that an earlier run left behind, and theirs; the caller knows that they are ours."""
    family = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family += [process, *process.children(recursive=True)]
            process.send_signal(how)
    _, survivors = psutil.wait_procs(family, timeout=seconds)
    for survivor in survivors:
        with contextlib.suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(survivors, timeout=5)


def command_of(pid: int) -> list[str]:
    """The command line of a process; empty when there is no such process or it is none of our business."""
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


def started_at(pid: int) -> float | None:
    """When a process began, in seconds since the epoch; None when there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def descendants(pid: int) -> list[int]:
    """The processes below one, at any depth."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
