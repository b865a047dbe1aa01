"""API keys

Revision: 0017, after 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

TYPES = (
    *("login", "login_new_device", "password_changed", "session_revoked", "refresh_token_reused", "codes_locked"),
    "mobile_changed",
)
VALIDATE = "ALTER TABLE security_events VALIDATE CONSTRAINT ck_security_events_type_is_known"


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("scope", sa.String(100), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("key_hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_keys_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
        if_not_exists=True,
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"], if_not_exists=True)
    for column in ("expires_at", "revoked_at"):
        where = sa.text(f"{column} IS NOT NULL")
        op.create_index(f"ix_api_keys_{column}", "api_keys", [column], postgresql_where=where, if_not_exists=True)
    allow((*TYPES, "api_key_created", "api_key_revoked"))
    with op.get_context().autocommit_block():
        op.execute(VALIDATE)


def downgrade() -> None:
    op.execute("DELETE FROM security_events WHERE type IN ('api_key_created', 'api_key_revoked')")
    allow(TYPES)
    op.execute(VALIDATE)
    op.drop_table("api_keys")


def allow(types: tuple[str, ...]) -> None:
    name, known = op.f("ck_security_events_type_is_known"), ", ".join(f"'{value}'" for value in types)
    op.execute(f"ALTER TABLE security_events DROP CONSTRAINT IF EXISTS {name}")
    op.execute(f"ALTER TABLE security_events ADD CONSTRAINT {name} CHECK (type IN ({known})) NOT VALID")
