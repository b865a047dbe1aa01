"""A limit on the replies of one user that are generated at once, and an index that finds a room's next reply

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_messages_generating_by_slot", ["held_for", "slot"], "status = 'generating'"),
    ("ix_messages_waiting_for_slot", ["held_for", "created_at"], "held_for IS NOT NULL AND slot IS NULL"),
    ("ix_messages_open_by_room", ["chatroom_id", "position"], "role = 'model' AND completed_at IS NULL"),
)


def upgrade() -> None:
    op.add_column("messages", sa.Column("held_for", sa.Uuid(), nullable=True), if_not_exists=True)
    op.add_column("messages", sa.Column("slot", sa.SmallInteger(), nullable=True), if_not_exists=True)
    with op.get_context().autocommit_block():
        for name, columns, condition in INDEXES:
            # An earlier attempt that was cut short leaves an invalid index behind, which is in the way.
            op.drop_index(name, table_name="messages", postgresql_concurrently=True, if_exists=True)
            op.create_index(
                name,
                "messages",
                columns,
                unique=name == "ix_messages_generating_by_slot",
                postgresql_where=sa.text(condition),
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name, _, _ in INDEXES:
            op.drop_index(name, table_name="messages", postgresql_concurrently=True, if_exists=True)
    op.drop_column("messages", "slot")
    op.drop_column("messages", "held_for")
