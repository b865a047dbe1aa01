"""Whether text of a reply was passed on, so that its prompt stays spent; the reply that an idempotency key got

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a constant default PostgreSQL rewrites no row.
    op.add_column("messages", sa.Column("passed_on", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("idempotency_keys", sa.Column("reply", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("idempotency_keys", "reply")
    op.drop_column("messages", "passed_on")
