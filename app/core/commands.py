"""The output of commands: a table for people, one JSON object per line for programs, one sentence for a failure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from flask.cli import AppGroup

from app.core.clock import as_rfc3339
from app.core.db import DATABASE_UNAVAILABLE
from app.core.errors import AppError
from app.core.logging import first_line

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, for programs.")


class CommandGroup(AppGroup):
    """Commands that end with one sentence if a use case refuses, or if PostgreSQL is unavailable."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises click.ClickException, whose exit code is 1."""
        try:
            return super().invoke(ctx)
        except AppError as error:
            raise click.ClickException(error.detail) from error
        except DATABASE_UNAVAILABLE as error:
            raise click.ClickException(f"PostgreSQL is unavailable: {first_line(error)}") from error


def json_lines(rows: Iterable[Mapping[str, object]]) -> str:
    """Format the rows as one JSON object per line, in ASCII: a user's text must not end a line or control a terminal.

    Plain JSON would keep C1 control characters, and what else Unicode counts as the end of a line.
    """
    return "\n".join(json.dumps(dict(row), default=to_plain) for row in rows)


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Format the rows as aligned columns under their names. A missing value is `-`."""
    cells = [[cell(row.get(name)) for name in columns] for row in rows]
    lines = [[name.replace("_", " ") for name in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def cell(value: object) -> str:
    """Format a value for a table, with control characters escaped: a user's text must not control the terminal."""
    plain = to_plain(value)
    text = "-" if plain is None else str(plain)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def to_plain(value: object) -> str | int | float | bool | None:
    """Convert a value to one that JSON knows. Times are in RFC 3339, to the second."""
    if isinstance(value, datetime):
        return as_rfc3339(value, timespec="seconds")
    return value if value is None or isinstance(value, int | float) else str(value)
