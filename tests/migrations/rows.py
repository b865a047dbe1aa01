"""Representative rows for every table of a schema, whatever its revision: made from what the database says of it."""

import re
import uuid
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
BY_TYPE: list[tuple[type[sa.types.TypeEngine], Any]] = [
    (sa.Boolean, False),
    (sa.Integer, 1),
    (sa.Float, 1.5),
    (sa.Numeric, 1),
    (sa.DateTime, NOW),
    (sa.Date, date(2026, 11, 21)),
    (sa.LargeBinary, b"x"),
    (sa.JSON, {}),
    (sa.String, "x"),
]
# What several columns have to agree on, which no type tells.
SPECIAL: dict[str, list[dict[str, Any]]] = {
    "users": [{"mobile": "+14155550100"}],
    "messages": [
        {"role": "user", "status": "completed", "text": "Hello", "position": 0, "completed_at": NOW},
        {"role": "model", "status": "queued", "position": 1, "in_reply_to": "FIRST"},
    ],
}


def insert_rows(connection: sa.Connection) -> dict[str, int]:
    """One row (or a few) into every table; how many, by table. The schema is the one the database has now."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    inspector = sa.inspect(connection)
    parents: dict[str, dict[str, Any]] = {}
    counts = {}
    for table in metadata.sorted_tables:
        if table.name == "alembic_version":
            continue
        choices = allowed_values(inspector.get_check_constraints(table.name))
        for special in SPECIAL.get(table.name, [{}]):
            row = {column.name: value_for(column, parents, choices) for column in table.columns if is_needed(column)}
            row |= {
                name: parents[table.name]["id"] if value == "FIRST" else value
                for name, value in special.items()
                if name in table.columns
            }
            connection.execute(table.insert().values(row))
            parents.setdefault(table.name, row)
        counts[table.name] = len(SPECIAL.get(table.name, [{}]))
    return counts


def is_needed(column: sa.Column[Any]) -> bool:
    return not column.nullable and column.server_default is None


def value_for(column: sa.Column[Any], parents: dict[str, dict[str, Any]], choices: dict[str, str]) -> Any:
    for key in column.foreign_keys:
        return parents[key.column.table.name][key.column.name]
    if column.name in choices:
        return choices[column.name]
    if isinstance(column.type, sa.Uuid):
        return uuid.uuid4()
    return next(value for kind, value in BY_TYPE if isinstance(column.type, kind))


def allowed_values(constraints: list[Any]) -> dict[str, str]:
    """The first value that a check of the kind `column IN (…)` allows, by column."""
    found = {}
    for constraint in constraints:
        match = re.match(r"\(?(\w+)\)?(?:::\w+)? = ANY \(.*?'([^']+)'", constraint["sqltext"])
        if match:
            found[match[1]] = match[2]
    return found


def count_rows(connection: sa.Connection, tables: dict[str, int]) -> dict[str, int]:
    return {name: connection.scalar(sa.text(f'SELECT count(*) FROM "{name}"')) for name in tables}
