"""Celery's processes as the Procfile starts them."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from sandbox.stack import processes
from sandbox.stack.processes import procfile_commands
from tests.web_process import ROOT


@contextmanager
def celery_process(name: str, environment: Mapping[str, str], log_file: Path, *words: str) -> Iterator[psutil.Process]:
    """Run `worker` or `beat` with the environment until the block ends. words: more of its command line."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | environment | {"PATH": programs}
    *shell, line = procfile_commands(ROOT / "Procfile")[name]
    command = [*shell, " ".join([line, *words])]
    with log_file.open("wb") as log:
        process = processes.spawn(command, output=log, env=variables, cwd=ROOT)
    try:
        yield psutil.Process(process.pid)
    finally:
        processes.stop(process, signal.SIGTERM, seconds=40)
