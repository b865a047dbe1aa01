"""Idempotency keys under which chatrooms were opened

Revision: 0018, after 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    name = op.f("ck_idempotency_keys_made_one_thing")
    op.alter_column("idempotency_keys", "prompt_id", existing_type=sa.Uuid(), nullable=True)
    op.add_column("idempotency_keys", sa.Column("chatroom_id", sa.Uuid(), nullable=True), if_not_exists=True)
    op.execute(f"ALTER TABLE idempotency_keys DROP CONSTRAINT IF EXISTS {name}")
    op.execute(
        f"ALTER TABLE idempotency_keys ADD CONSTRAINT {name} CHECK (num_nonnulls(prompt_id, chatroom_id) = 1) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE idempotency_keys VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    op.execute("DELETE FROM idempotency_keys WHERE prompt_id IS NULL")
    op.drop_column("idempotency_keys", "chatroom_id")
    op.alter_column("idempotency_keys", "prompt_id", existing_type=sa.Uuid(), nullable=False)
