"""Remove the second index of unfinished replies: `ix_messages_open_by_room` has the same rows

Revision: 0020, after 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

UNFINISHED_BY_ROOM = "ix_messages_unfinished_by_room"


def upgrade() -> None:
    drop_index()


def downgrade() -> None:
    drop_index()  # an earlier attempt that was cut short leaves an invalid index behind, which is in the way
    with op.get_context().autocommit_block():
        op.create_index(
            UNFINISHED_BY_ROOM,
            "messages",
            ["chatroom_id", "position"],
            postgresql_where=sa.text("status IN ('queued', 'generating')"),
            postgresql_concurrently=True,
        )


def drop_index() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(UNFINISHED_BY_ROOM, table_name="messages", postgresql_concurrently=True, if_exists=True)
