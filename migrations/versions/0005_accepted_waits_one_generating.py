"""accepted_at, waits_until, enqueued_at, one generating reply a room

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ONE_A_ROOM = "ix_messages_generating_by_room"
SURPLUS = """
UPDATE messages SET status = 'queued', lease_expires_at = NULL
WHERE status = 'generating' AND EXISTS (
    SELECT FROM messages other WHERE other.chatroom_id = messages.chatroom_id AND other.status = 'generating'
    AND other.position < messages.position)
"""


def upgrade() -> None:
    # First what commits by itself: cut short, all of this can be run again.
    with op.get_context().autocommit_block():
        # What an earlier attempt that was cut short has left behind is invalid, and in the way.
        op.drop_index(ONE_A_ROOM, table_name="messages", postgresql_concurrently=True, if_exists=True)
        op.execute(SURPLUS)
        op.create_index(
            ONE_A_ROOM,
            "messages",
            ["chatroom_id"],
            unique=True,
            postgresql_where=sa.text("status = 'generating'"),
            postgresql_concurrently=True,
        )
    op.add_column("messages", sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("idempotency_keys", sa.Column("waits_until", sa.DateTime(timezone=True), nullable=True))
    op.alter_column("messages", "rung_at", new_column_name="enqueued_at")  # allowed once: nothing is deployed yet


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(ONE_A_ROOM, table_name="messages", postgresql_concurrently=True, if_exists=True)
    op.alter_column("messages", "enqueued_at", new_column_name="rung_at")
    op.drop_column("idempotency_keys", "waits_until")
    op.drop_column("messages", "accepted_at")
