"""Processes of the stack with their output in one log, waits with deadlines, and free ports.

A child has its own session, which the terminal's Ctrl-C does not reach. On Linux it ends with its parent.
"""

import contextlib
import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TextIO

import psutil
import requests

from sandbox.stack.accounts import Account

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
POLL_SECONDS = 0.05
# Below the ports that systems use for outgoing connections (from 32768 on Linux, 49152 elsewhere), so that none of them
# takes the port of a server that is being restarted.
_PORTS = range(20_000, 32_000)
_reserved: set[int] = set()
_DRAIN_SECONDS = 25.0  # Render sends SIGKILL 30 s after SIGTERM
_LAST_LINES_SECONDS = 1.0
_SILENCE_SECONDS = 0.7
_CHATTER_SECONDS = 3.0
_NAME_WIDTH = 8
_COLOURS = ("36", "33", "32", "35", "31", "34")  # ANSI: cyan, yellow, green, magenta, red, blue
_PR_SET_PDEATHSIG = 1  # prctl(2), Linux
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class StackError(Exception):
    """The stack does not start, or cannot go on; the message says why and what to do."""


class StoppedError(Exception):
    """A stop was requested before the start was complete."""


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Check `condition` every 50 ms until it holds. Returns False if it still does not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def direct_session() -> requests.Session:
    """Return a session that uses no proxy of the environment."""
    session = requests.Session()
    session.trust_env = False
    return session


def comes_up(process: subprocess.Popen[bytes], answers: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until a process answers. Returns False if it has ended, or has not answered after `seconds`."""
    wait_until(lambda: process.poll() is not None or answers(), seconds=seconds)
    return process.poll() is None and answers()


def says_ok(url: str) -> bool:
    """Return whether it is the API that answers there: `/healthz` if it runs, `/readyz` if it can serve."""
    try:
        with direct_session() as session:
            return bool(session.get(url, timeout=5).json() == {"status": "ok"})
    except (requests.RequestException, ValueError):
        return False


def bind_error(port: int, host: str = "127.0.0.1") -> OSError | None:
    """Return why a server could not listen on this port, or None if it could."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def free_port(preferred: int | None = None) -> int:
    """Return a port of 127.0.0.1 that nothing listens on: the preferred one if it is free, else a random one.

    It is ours until this process ends: no other process that calls this gets it, however late our server listens.
    """
    candidates = random.sample(_PORTS, 200)
    if preferred is not None:
        candidates.insert(0, preferred)
    for port in candidates:
        if bind_error(port) is None and (reserve(port) or port == preferred in _reserved):
            return port
    raise OSError("No free port on 127.0.0.1.")


def reserve(port: int) -> bool:
    """Reserve a port against other processes that ask here. Returns False if one of them has it, or we already do.

    The token is the UDP port with the same number: the system gives it to one process only, and frees it when that
    process ends.
    """
    token = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        token.bind(("127.0.0.1", port))
    except OSError:
        token.close()
        return False
    _reserved.add(port)
    token.detach()  # open until this process ends
    return True


def spawn(
    command: Sequence[str],
    *,
    output: int | IO[bytes],
    errors: int | None = subprocess.STDOUT,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    parent_death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start `command` in its own session, with `output` for both of its streams.

    errors: where its standard error goes instead; None for our own standard error.
    account: who runs it; None for the current user (another account needs root).
    parent_death_signal: the signal it gets if we die without stopping it (Linux only).
    """

    def end_with_parent() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(parent_death_signal))

    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        env=env,
        cwd=cwd,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509 - one prctl call, which takes no lock
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def kill_group(leader_pid: int) -> None:
    """Kill what is left of the session that a process started with `spawn` leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)


def stop(
    process: subprocess.Popen[bytes],
    how: signal.Signals,
    *,
    seconds: float,
    hurried: Callable[[], bool] = lambda: False,
) -> None:
    """Ask a process to stop, and kill it if it has not after `seconds` or as soon as `hurried` says so."""
    if process.poll() is None:
        process.send_signal(how)
        wait_until(lambda: process.poll() is not None or hurried(), seconds=seconds)
    kill_group(process.pid)
    process.wait()


def end_orphans(pids: Iterable[int], how: signal.Signals, *, seconds: float) -> None:
    """End processes that an earlier run left behind, with their children. The caller knows that they are ours."""
    ours = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            leader, *others = family(pid)
            leader.send_signal(how)
            ours += [leader, *others]
    _, survivors = psutil.wait_procs(ours, timeout=seconds)
    for survivor in survivors:
        with contextlib.suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(survivors, timeout=5)


def command_of(pid: int) -> list[str]:
    """Return the command line of a process; empty if there is no such process or we may not see it."""
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


def started_at(pid: int) -> float | None:
    """Return when a process started, in seconds since the epoch; None if there is no such process."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants. Raises psutil.NoSuchProcess."""
    leader = psutil.Process(pid)
    return [leader, *leader.children(recursive=True)]


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's descendants; none if it is gone."""
    try:
        return [process.pid for process in family(pid)[1:]]
    except psutil.Error:
        return []


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    pump: threading.Thread


class Processes:
    """Starts processes, prints their output, notices when one ends, and stops them together."""

    def __init__(self, *, lost_output: Callable[[], None], output: TextIO | None = None) -> None:
        self._lost_output = lost_output
        self._output = output or sys.stdout
        self._printing = threading.Lock()
        self._last_line = 0.0
        self._running: dict[str, _Running] = {}

    def start(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> int:
        """Start a process. Returns its id."""
        process = spawn(command, output=subprocess.PIPE, env=environ, cwd=ROOT)
        colour = _COLOURS[len(self._running) % len(_COLOURS)]
        pump = threading.Thread(target=self._pump, args=(name, process, colour), daemon=True)
        pump.start()
        self._running[name] = _Running(process, pump)
        return process.pid

    def ended(self) -> str | None:
        """Return which process has ended by itself, and how; None while all run."""
        for name, running in self._running.items():
            code = running.process.poll()
            if code is not None:
                running.pump.join(_LAST_LINES_SECONDS)
                how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
                return f"{name} has stopped unexpectedly ({how})"
        return None

    def stop(self, names: Sequence[str], *, hurried: Callable[[], bool]) -> None:
        """Ask these processes to stop, all at once, and wait while they finish their work."""
        leaving = [self._running[name] for name in names if name in self._running]
        for running in leaving:
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGTERM)
        wait_until(
            lambda: hurried() or all(running.process.poll() is not None for running in leaving),
            seconds=_DRAIN_SECONDS,
        )
        for running in leaving:
            kill_group(running.process.pid)
            running.process.wait()
            running.pump.join(_LAST_LINES_SECONDS)
        for name in names:
            self._running.pop(name, None)

    def say(self, text: str) -> None:
        """Print the stack's own lines, with its prefix."""
        self._print("stack", text)

    def wait_for_silence(self, *, unless: Callable[[], bool]) -> None:
        """Let the processes print their first lines, so that what comes next stays on the screen."""
        wait_until(
            lambda: unless() or time.monotonic() - self._last_line > _SILENCE_SECONDS,
            seconds=_CHATTER_SECONDS,
        )

    def show(self, text: str) -> None:
        """Print a text without a prefix, so that it can be copied."""
        with self._printing:
            try:
                print(text, file=self._output, flush=True)
            except (OSError, ValueError):
                self._lost_output()

    def _pump(self, name: str, process: subprocess.Popen[bytes], colour: str) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._print(name, line.decode(errors="replace"), colour)

    def _print(self, name: str, text: str, colour: str = "") -> None:
        """Print lines with a prefix of the time and a name, in colour on a terminal."""
        prefix = f"{datetime.now().astimezone():%H:%M:%S} {name:<{_NAME_WIDTH}} | "
        with self._printing:
            self._last_line = time.monotonic()
            try:
                if colour and self._output.isatty():
                    prefix = f"\033[{colour}m{prefix}\033[0m"
                print(*(prefix + line for line in text.splitlines()), sep="\n", file=self._output, flush=True)
            except (OSError, ValueError):  # the terminal is gone; go on reading, or the process would block
                self._lost_output()


def procfile_commands(path: Path) -> dict[str, list[str]]:
    """Return the Procfile's processes. Each command becomes the process itself, not the child of a shell."""
    try:
        lines = re.findall(r"^([\w-]+):\s*(.+)$", path.read_text(), flags=re.MULTILINE)
    except OSError as error:
        raise StackError(f"Cannot read {path}: {error.strerror}.") from None
    return {name: ["/bin/sh", "-c", f"exec env {line}"] for name, line in lines}
