"""Celery's processes as the Procfile starts them."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from sandbox.stack import children
from sandbox.stack.processes import procfile_commands

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def celery_process(name: str, environment: Mapping[str, str], log_file: Path) -> Iterator[psutil.Process]:
    """`worker` or `beat` with the environment, until the block ends."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | environment | {"PATH": programs}
    with log_file.open("wb") as log:
        process = children.spawn(procfile_commands(ROOT / "Procfile")[name], output=log, env=variables, cwd=ROOT)
    try:
        yield psutil.Process(process.pid)
    finally:
        children.stop(process, signal.SIGTERM, seconds=40)
