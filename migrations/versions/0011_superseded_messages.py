"""Turns that an edit or a new reply has superseded; several replies to one prompt, of which one is current

Revision: 0011, after 0010
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ONE_REPLY = "uq_messages_in_reply_to"
ONE_CURRENT = "(superseded::integer * position)"
INDEXES: tuple[tuple[str, list[Any], Any], ...] = (
    ("ix_messages_reply_of_prompt", ["in_reply_to", sa.text(ONE_CURRENT)], None),
    ("ix_messages_superseded_by_room", ["chatroom_id", "position"], sa.text("superseded")),
)


def upgrade() -> None:
    # With a constant default PostgreSQL rewrites no row.
    column: sa.Column[bool] = sa.Column("superseded", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("messages", column, if_not_exists=True)
    with op.get_context().autocommit_block():
        for name, columns, condition in INDEXES:
            # An earlier attempt that was cut short leaves an invalid index behind, which is in the way.
            op.drop_index(name, table_name="messages", postgresql_concurrently=True, if_exists=True)
            op.create_index(
                name,
                "messages",
                columns,
                unique=condition is None,
                postgresql_where=condition,
                postgresql_concurrently=True,
            )
    op.execute(f"ALTER TABLE messages DROP CONSTRAINT IF EXISTS {ONE_REPLY}")


def downgrade() -> None:
    op.execute(
        "DELETE FROM messages old USING messages newer WHERE old.superseded"
        " AND newer.in_reply_to = old.in_reply_to AND newer.position > old.position"
    )
    op.create_unique_constraint(ONE_REPLY, "messages", ["in_reply_to"])
    op.execute("DROP INDEX ix_messages_reply_of_prompt")
    op.drop_column("messages", "superseded")
