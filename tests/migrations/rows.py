"""Rows and rules of a schema of any revision, made from what the database says of it."""

import re
import uuid
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
BY_TYPE: list[tuple[type[sa.types.TypeEngine], Any]] = [
    (sa.Boolean, True),
    (sa.Integer, 1),
    (sa.Float, 1.5),
    (sa.Numeric, 1),
    (sa.DateTime, NOW),
    (sa.Date, date(2026, 11, 21)),
    (sa.LargeBinary, b"x"),
    (sa.JSON, {}),
    (sa.String, "x"),
]
# What several columns have to agree on, and no type expresses.
NO_FAILURE_NO_LEASE = {"error_code": None, "lease_expires_at": None, "superseded": False}
SPECIAL: dict[str, list[dict[str, Any]]] = {
    "users": [{"mobile": "+14155550100"}],
    "messages": [
        NO_FAILURE_NO_LEASE | {"role": "user", "status": "completed", "position": 0, "in_reply_to": None},
        NO_FAILURE_NO_LEASE | {"role": "model", "status": "queued", "position": 1, "in_reply_to": "FIRST"},
    ],
    "idempotency_keys": [{"chatroom_id": None}],
    "searchable_messages": [],  # a trigger writes them
}
TABLES = "(SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname <> 'alembic_version')"
SCHEMA = f"""
    SELECT concat_ws(' ', attrelid::regclass, attname, format_type(atttypid, atttypmod),
                     attnotnull, pg_get_expr(adbin, adrelid))
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid IN {TABLES} AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid IN {TABLES}
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN {TABLES}
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN {TABLES} AND NOT tgisinternal
    UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""
RULES = f"""
    SELECT conrelid::regclass::text, conname::text, conkey FROM pg_constraint
    WHERE conrelid IN {TABLES} AND contype <> 'n'
    UNION ALL SELECT indrelid::regclass::text, indexrelid::regclass::text, indkey::int2[] FROM pg_index
    WHERE indrelid IN {TABLES} AND indisunique
    UNION ALL SELECT attrelid::regclass::text, 'not null ' || attname, ARRAY[attnum] FROM pg_attribute
    WHERE attrelid IN {TABLES} AND attnotnull AND attnum > 0 AND NOT attisdropped
"""
Rows = dict[str, set[tuple[Any, ...]]]


def tables_of(connection: sa.Connection) -> sa.MetaData:
    """Return the tables and columns that code written for the present schema knows."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    metadata.remove(metadata.tables["alembic_version"])
    return metadata


def schema_of(connection: sa.Connection) -> set[str]:
    """Return every column, constraint, index, trigger and function."""
    return set(connection.scalars(sa.text(SCHEMA)))


def rules_of(connection: sa.Connection, known: sa.MetaData) -> set[tuple[str, str]]:
    """Return the database's rules by table and name, as far as they concern known columns."""
    return {
        (table, name)
        for table, name, numbers in connection.execute(sa.text(RULES)).all()
        if table in known.tables and set(names_of(connection, table, numbers)) & set(known.tables[table].columns.keys())
    }


def names_of(connection: sa.Connection, table: str, numbers: list[int]) -> list[str]:
    statement = "SELECT attname::text FROM pg_attribute WHERE attrelid = cast(:t AS regclass) AND attnum = ANY(:n)"
    return list(connection.scalars(sa.text(statement), {"t": table, "n": numbers}))


def insert_rows(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Insert one row (or two) into every table, naming the columns of `metadata` and no others."""
    inspector = sa.inspect(connection)
    parents: dict[str, dict[str, Any]] = {}
    for table in metadata.sorted_tables:
        choices = allowed_values(inspector.get_check_constraints(table.name))
        for special in SPECIAL.get(table.name, [{}]):
            row = {column.name: value_for(column, parents, choices) for column in table.columns if not_self(column)}
            row |= {
                name: parents[table.name]["id"] if value == "FIRST" else value
                for name, value in special.items()
                if name in table.columns
            }
            connection.execute(table.insert().values(row))
            parents.setdefault(table.name, row)


def not_self(column: sa.Column[Any]) -> bool:
    return all(key.column.table is not column.table for key in column.foreign_keys)


def value_for(column: sa.Column[Any], parents: dict[str, dict[str, Any]], choices: dict[str, str]) -> Any:
    for key in column.foreign_keys:
        return parents[key.column.table.name][key.column.name]
    if column.name in choices:
        return choices[column.name]
    if isinstance(column.type, sa.Uuid):
        return uuid.uuid4()
    return next(value for kind, value in BY_TYPE if isinstance(column.type, kind))


def allowed_values(constraints: list[Any]) -> dict[str, str]:
    """Return the first value that a check of the kind `column IN (…)` allows, by column."""
    found = {}
    for constraint in constraints:
        match = re.match(r"\(?(\w+)\)?(?:::\w+)? = ANY \(.*?'([^']+)'", constraint["sqltext"])
        if match:
            found[match[1]] = match[2]
    return found


def read_rows(connection: sa.Connection, metadata: sa.MetaData) -> Rows:
    """Return what every table of `metadata` holds in the columns of `metadata`."""
    return {
        table.name: {tuple(map(hashable, row)) for row in connection.execute(sa.select(table))}
        for table in metadata.sorted_tables
    }


def hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, dict | list) else value
