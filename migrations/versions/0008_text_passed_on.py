"""Whether text of a reply was passed on: then its prompt stays spent

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a constant default PostgreSQL rewrites no row.
    op.add_column("messages", sa.Column("passed_on", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("messages", "passed_on")
