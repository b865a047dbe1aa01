"""Transactions in tests: one that leaves nothing, and an alarm for what the product writes outside of any."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from app.core.transactions import transaction

APP = str(Path(__file__).resolve().parents[1] / "app")
DOORS = ("views.py", "tasks.py", "cli.py", "commands.py", "runner.py", "worker.py")  # not a test that calls a helper
WRITES = re.compile(
    r"\A\s*(INSERT|UPDATE|DELETE)\b|\A\s*WITH\b.*\b(INSERT INTO|UPDATE|DELETE FROM)\b|\bFOR (NO KEY )?UPDATE\b",
    re.DOTALL,
)


class Undone(Exception):
    """Ends a transaction so that it leaves nothing."""


@contextmanager
def undone() -> Iterator[None]:
    """A transaction that is rolled back at its end."""
    with suppress(Undone), transaction():
        yield
        raise Undone


def refuse_lone_write(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
    """Raise AssertionError when a route, a task or a command writes or locks outside of `transaction()`."""
    if cursor.connection.autocommit and WRITES.search(statement) and comes_through_a_door():
        raise AssertionError(f"outside of transaction(): {statement}")


def comes_through_a_door() -> bool:
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(APP) and path.endswith(DOORS):
            return True
        frame = frame.f_back
    return False


def watch_writes() -> None:
    event.listen(Engine, "before_cursor_execute", refuse_lone_write)
