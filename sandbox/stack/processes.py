"""The processes of the stack, and their output as one log with a prefix on each line.

honcho reads the Procfile and prints the lines. Its Manager does not run them: it stops everything at once,
kills after five seconds, and leaves its helper processes behind when it is killed itself.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from honcho.colour import get_colours
from honcho.environ import parse_procfile
from honcho.printer import Message, Printer

from sandbox.stack import children
from sandbox.stack.errors import StackError
from sandbox.stack.waiting import wait_until

_DRAIN_SECONDS = 25.0  # Render sends SIGKILL 30 s after SIGTERM
_LAST_LINES_SECONDS = 1.0
_SILENCE_SECONDS = 0.7
_CHATTER_SECONDS = 3.0
_NAME_WIDTH = 8


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    pump: threading.Thread


class Processes:
    """Starts processes, prints what they say, notices when one ends, stops them together."""

    def __init__(self, *, root: Path, lost_output: Callable[[], None], output: TextIO | None = None) -> None:
        self._root = root
        self._lost_output = lost_output
        self._output = output or sys.stdout
        self._printer = Printer(self._output, width=_NAME_WIDTH)
        self._printing = threading.Lock()
        self._colours = get_colours()
        self._last_line = 0.0
        self._running: dict[str, _Running] = {}

    def start(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> int:
        """Start a process; its id."""
        process = children.spawn(command, output=subprocess.PIPE, env=environ, cwd=self._root)
        colour = next(self._colours)
        pump = threading.Thread(target=self._pump, args=(name, process, colour), daemon=True)
        pump.start()
        self._running[name] = _Running(process, pump)
        return process.pid

    def ended(self) -> str | None:
        """Which process has ended by itself, and how; None while all run."""
        for name, running in self._running.items():
            code = running.process.poll()
            if code is not None:
                running.pump.join(_LAST_LINES_SECONDS)
                how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
                return f"{name} has stopped unexpectedly ({how})"
        return None

    def stop(self, names: Sequence[str], *, hurried: Callable[[], bool]) -> None:
        """Ask these to end all at once, and wait while they finish what they have begun."""
        leaving = [self._running[name] for name in names if name in self._running]
        for running in leaving:
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGTERM)
        wait_until(
            lambda: hurried() or all(running.process.poll() is not None for running in leaving),
            seconds=_DRAIN_SECONDS,
        )
        for running in leaving:
            children.kill_group(running.process.pid)
            running.process.wait()
            running.pump.join(_LAST_LINES_SECONDS)
        for name in names:
            self._running.pop(name, None)

    def say(self, text: str) -> None:
        """Print lines of the stack's own, with its prefix."""
        self._print(Message("line", text, datetime.now().astimezone(), "stack", None))

    def wait_for_silence(self, *, unless: Callable[[], bool]) -> None:
        """Let the others say their first words, so that what comes next stays on the screen."""
        wait_until(
            lambda: unless() or time.monotonic() - self._last_line > _SILENCE_SECONDS,
            seconds=_CHATTER_SECONDS,
        )

    def show(self, text: str) -> None:
        """Print a text as it is, to be pasted from."""
        with self._printing:
            try:
                print(text, file=self._output, flush=True)
            except (OSError, ValueError):
                self._lost_output()

    def _pump(self, name: str, process: subprocess.Popen[bytes], colour: str) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._print(Message("line", line, datetime.now().astimezone(), name, colour))

    def _print(self, message: Message) -> None:
        with self._printing:
            self._last_line = time.monotonic()
            try:
                self._printer.write(message)
            except (OSError, ValueError):  # the terminal is gone; go on reading, or the process would block
                self._lost_output()


def procfile_commands(path: Path) -> dict[str, list[str]]:
    """The Procfile's processes, each as a command that becomes the process instead of a shell's child."""
    try:
        lines = parse_procfile(path.read_text()).processes
    except OSError as error:
        raise StackError(f"Cannot read {path}: {error.strerror}.") from None
    return {name: ["/bin/sh", "-c", f"exec env {line}"] for name, line in lines.items()}
