"""heartbeats totals

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FINISHED = "role = 'model' AND completed_at IS NOT NULL"


def upgrade() -> None:
    # First what commits by itself: cut short, all of this can be run again.
    with op.get_context().autocommit_block():
        # What an earlier attempt that was cut short has left behind is invalid, and in the way.
        op.drop_index("ix_messages_finished", table_name="messages", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_messages_finished",
            "messages",
            ["completed_at"],
            postgresql_where=sa.text(FINISHED),
            postgresql_concurrently=True,
        )
    op.create_table(
        "heartbeats",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_heartbeats")),
    )
    op.create_table(
        "totals",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("label", sa.String(length=50), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "label", name=op.f("pk_totals")),
    )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_messages_finished", table_name="messages", postgresql_concurrently=True, if_exists=True)
    op.drop_table("totals")
    op.drop_table("heartbeats")
