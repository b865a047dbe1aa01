"""What commands print: a table for people, or one JSON object a line for programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime


def spelled(value: object) -> str | int | float | bool | None:
    """A value as JSON and people read it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return value if value is None or isinstance(value, int | float) else str(value)


def json_lines(rows: Iterable[Mapping[str, object]]) -> str:
    """The rows as one JSON object a line."""
    return "\n".join(
        json.dumps({name: spelled(value) for name, value in row.items()}, ensure_ascii=False) for row in rows
    )


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """The rows as aligned columns under their names; a missing value is `-`."""
    cells = [["-" if (value := spelled(row.get(name))) is None else str(value) for name in columns] for row in rows]
    lines = [[name.replace("_", " ") for name in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
