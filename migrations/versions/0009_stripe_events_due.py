"""What a Stripe event is about and when it is due: events are noted first and applied by a task

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INDEX = "ix_stripe_events_due_at"
# A reference of a new column is valid at once, without a look at the rows: all are null. For events that the earlier
# code notes after it has applied them, null is right as well: nothing is due.
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
        # What an earlier attempt that was cut short has left behind is invalid, and in the way.
        op.drop_index(INDEX, table_name="stripe_events", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            INDEX,
            "stripe_events",
            ["due_at"],
            postgresql_where=sa.text("due_at IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    # The earlier code takes each event that is noted for applied: those that are not are left to `billing.sync`.
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, table_name="stripe_events", postgresql_concurrently=True, if_exists=True)
    for column in ("due_at", "subscription_id", "customer_id"):
        op.drop_column("stripe_events", column)
