"""Changing the number: codes for it, its event, and charges that go along with their user

Revision: 0016, after 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

PURPOSES = ("login", "reset_password")
NEW_PURPOSES = ("new_mobile", "current_mobile")
TYPES = ("login", "login_new_device", "password_changed", "session_revoked", "refresh_token_reused", "codes_locked")
INDEXES = (
    ("ix_prompt_charges_of_user", ["user_id", "day"], None),
    ("ix_prompt_charges_carried", ["carried_from"], sa.text("carried_from IS NOT NULL")),
)


def upgrade() -> None:
    for name in ("user_id", "carried_from"):
        op.add_column("prompt_charges", sa.Column(name, sa.Uuid(), nullable=True), if_not_exists=True)
    allow("one_time_codes", "purpose", (*PURPOSES, *NEW_PURPOSES))
    allow("security_events", "type", (*TYPES, "mobile_changed"))
    with op.get_context().autocommit_block():
        for table, column in (("one_time_codes", "purpose"), ("security_events", "type")):
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{column}_is_known")
        for name, columns, condition in INDEXES:
            # An earlier attempt that was cut short leaves an invalid index behind, which is in the way.
            op.drop_index(name, table_name="prompt_charges", postgresql_concurrently=True, if_exists=True)
            op.create_index(name, "prompt_charges", columns, postgresql_where=condition, postgresql_concurrently=True)


def downgrade() -> None:
    op.execute("DELETE FROM one_time_codes WHERE purpose IN ('new_mobile', 'current_mobile')")
    op.execute("DELETE FROM security_events WHERE type = 'mobile_changed'")
    for table, column, values in (("one_time_codes", "purpose", PURPOSES), ("security_events", "type", TYPES)):
        allow(table, column, values)
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{column}_is_known")
    op.execute("DELETE FROM prompt_charges WHERE carried_from IS NOT NULL AND day < current_date")
    for name in ("user_id", "carried_from"):
        op.drop_column("prompt_charges", name)


def allow(table: str, column: str, values: tuple[str, ...]) -> None:
    """Let a column have these values from now on. Existing rows are checked later, without a long lock."""
    name = op.f(f"ck_{table}_{column}_is_known")
    known = ", ".join(f"'{value}'" for value in values)
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({column} IN ({known})) NOT VALID")
