"""What replies took, kept in the ledger; totals by model

Revision: 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

NUMBERS = ("prompt_tokens", "output_tokens", "thinking_tokens")
TIER_IS_KNOWN = "ck_prompt_charges_tier_is_known"
BY_DAY = "ix_prompt_charges_by_day"


def upgrade() -> None:
    op.alter_column("totals", "label", type_=sa.String(160), existing_type=sa.String(50))
    op.add_column("prompt_charges", sa.Column("tier", sa.String(32), nullable=True), if_not_exists=True)
    op.add_column("prompt_charges", sa.Column("model", sa.String(100), nullable=True), if_not_exists=True)
    for name in NUMBERS:
        op.add_column("prompt_charges", sa.Column(name, sa.Integer(), nullable=True), if_not_exists=True)
    op.execute(f"ALTER TABLE prompt_charges DROP CONSTRAINT IF EXISTS {TIER_IS_KNOWN}")
    op.execute(f"ALTER TABLE prompt_charges ADD CONSTRAINT {TIER_IS_KNOWN} CHECK (tier IN ('basic', 'pro')) NOT VALID")
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE prompt_charges VALIDATE CONSTRAINT {TIER_IS_KNOWN}")
        # An earlier attempt that was cut short leaves an invalid index behind, which is in the way.
        op.drop_index(BY_DAY, table_name="prompt_charges", postgresql_concurrently=True, if_exists=True)
        op.create_index(BY_DAY, "prompt_charges", ["day"], postgresql_using="brin", postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(BY_DAY, table_name="prompt_charges", postgresql_concurrently=True, if_exists=True)
    for name in ("tier", "model", *NUMBERS):
        op.drop_column("prompt_charges", name)
    op.execute("DELETE FROM totals WHERE length(label) > 50")
    op.alter_column("totals", "label", type_=sa.String(50), existing_type=sa.String(160))
