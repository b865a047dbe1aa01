"""Whom a Stripe event is about and when it is due: events are noted first, then applied by a task

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INDEX = "ix_stripe_events_due_at"
# A foreign key of a new column is valid at once, without reading the rows: all are null. Null is also right for events
# that the earlier code notes, because it has already applied them: nothing is due.
ADD_CUSTOMER = """
    ALTER TABLE stripe_events ADD COLUMN IF NOT EXISTS customer_id uuid
    CONSTRAINT fk_stripe_events_customer_id REFERENCES stripe_customers (id)
"""


def upgrade() -> None:
    op.execute(ADD_CUSTOMER)
    op.add_column("stripe_events", sa.Column("subscription_id", sa.String(255), nullable=True), if_not_exists=True)
    due_at = sa.Column("due_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("stripe_events", due_at, if_not_exists=True)
    with op.get_context().autocommit_block():
        # An earlier attempt that was cut short leaves an invalid index behind, which is in the way.
        op.drop_index(INDEX, table_name="stripe_events", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            INDEX,
            "stripe_events",
            ["due_at"],
            postgresql_where=sa.text("due_at IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    # To the earlier code each noted event is applied. `billing.sync` makes up for those that are not.
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, table_name="stripe_events", postgresql_concurrently=True, if_exists=True)
    for column in ("due_at", "subscription_id", "customer_id"):
        op.drop_column("stripe_events", column)
