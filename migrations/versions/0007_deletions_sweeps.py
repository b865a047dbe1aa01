"""Deletion of chatrooms and accounts in the background, and indexes for the sweeps

Revision: 0007, after 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Name, table, column, and the few rows that each index has.
INDEXES = (
    ("ix_messages_failed", "messages", "completed_at", "status = 'failed'"),
    ("ix_auth_sessions_revoked_at", "auth_sessions", "revoked_at", "revoked_at IS NOT NULL"),
    ("ix_users_unverified", "users", "created_at", "verified_at IS NULL"),
    ("ix_users_deleted", "users", "id", "mobile IS NULL"),
    ("ix_chatrooms_deleted", "chatrooms", "updated_at", "user_id IS NULL"),
)


def upgrade() -> None:
    # First what commits by itself: if this is cut short, all of it can be run again.
    with op.get_context().autocommit_block():
        for name, table, column, rows in INDEXES:
            # An earlier attempt that was cut short leaves an invalid index behind, which is in the way.
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)
            op.create_index(name, table, [column], postgresql_where=sa.text(rows), postgresql_concurrently=True)
    op.alter_column("users", "mobile", nullable=True)
    op.alter_column("chatrooms", "user_id", nullable=True)


def downgrade() -> None:
    # A chatroom without an owner, or a user without a number, is already deleted; only its rows are left.
    op.execute("DELETE FROM chatrooms WHERE user_id IS NULL")
    op.execute("DELETE FROM users WHERE mobile IS NULL")
    op.alter_column("chatrooms", "user_id", nullable=False)
    op.alter_column("users", "mobile", nullable=False)
    with op.get_context().autocommit_block():
        for name, table, _, _ in INDEXES:
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)
