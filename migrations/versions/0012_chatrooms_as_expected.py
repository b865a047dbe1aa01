"""Chatrooms without a title yet, with an instruction or a model of their own, pinned or archived

Revision: 0012, after 0011
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COLUMNS: tuple[tuple[str, sa.types.TypeEngine[Any], Any], ...] = (
    ("title_source", sa.String(32), None),
    ("instruction", sa.Text(), None),
    ("model", sa.String(100), None),
    # With a constant default PostgreSQL rewrites no row.
    ("pinned", sa.Boolean(), sa.false()),
    ("archived", sa.Boolean(), sa.false()),
)
SOURCE_IS_KNOWN = "ck_chatrooms_title_source_is_known"


def upgrade() -> None:
    op.alter_column("chatrooms", "title", nullable=True)
    for name, kind, default in COLUMNS:
        column = sa.Column(name, kind, nullable=default is None, server_default=default)
        op.add_column("chatrooms", column, if_not_exists=True)
    op.execute(f"ALTER TABLE chatrooms DROP CONSTRAINT IF EXISTS {SOURCE_IS_KNOWN}")
    condition = "title_source IN ('user', 'generated')"
    op.execute(f"ALTER TABLE chatrooms ADD CONSTRAINT {SOURCE_IS_KNOWN} CHECK ({condition}) NOT VALID")
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE chatrooms VALIDATE CONSTRAINT {SOURCE_IS_KNOWN}")
        make_index("ix_chatrooms_listed", ["user_id", "archived", "pinned", "last_prompt_at", "id"])
        make_index("ix_chatrooms_untitled", ["last_prompt_at"], "title IS NULL AND turns > 0")
        drop_index("ix_chatrooms_newest_first")


def downgrade() -> None:
    op.execute("UPDATE chatrooms SET title = 'Untitled' WHERE title IS NULL")
    with op.get_context().autocommit_block():
        make_index("ix_chatrooms_newest_first", ["user_id", "last_prompt_at", "id"])
        drop_index("ix_chatrooms_untitled")
        drop_index("ix_chatrooms_listed")
    for name, _, _ in COLUMNS:
        op.drop_column("chatrooms", name)
    op.alter_column("chatrooms", "title", nullable=False)


def make_index(name: str, columns: list[str], condition: str | None = None) -> None:
    """Make an index of `chatrooms`, in place of one that an earlier attempt, cut short, has left behind."""
    drop_index(name)
    where = None if condition is None else sa.text(condition)
    op.create_index(name, "chatrooms", columns, postgresql_where=where, postgresql_concurrently=True)


def drop_index(name: str) -> None:
    op.drop_index(name, table_name="chatrooms", postgresql_concurrently=True, if_exists=True)
