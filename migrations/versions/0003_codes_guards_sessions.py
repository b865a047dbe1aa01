"""codes guards sessions

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "number_guards",
        sa.Column("mobile_key", sa.String(length=64), nullable=False),
        sa.Column("wrong_codes", sa.Integer(), nullable=False),
        sa.Column("wrong_codes_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("password_tries", sa.Integer(), nullable=False),
        sa.Column("password_tries_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("mobile_key", name=op.f("pk_number_guards")),
    )
    op.create_index(op.f("ix_number_guards_touched_at"), "number_guards", ["touched_at"], unique=False)
    # Refresh tokens of before know no rotation: who holds one logs in again.
    op.create_table(
        "refresh_rotations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["auth_sessions.id"], name=op.f("fk_refresh_rotations_session_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refresh_rotations")),
    )
    op.create_index(op.f("ix_refresh_rotations_used_at"), "refresh_rotations", ["used_at"], unique=False)
    op.create_index(op.f("ix_refresh_rotations_session_id"), "refresh_rotations", ["session_id"], unique=False)
    op.create_index(
        "uq_refresh_rotations_current",
        "refresh_rotations",
        ["session_id"],
        unique=True,
        postgresql_where=sa.text("used_at IS NULL"),
    )
    op.create_index(op.f("ix_auth_sessions_last_used_at"), "auth_sessions", ["last_used_at"], unique=False)
    op.add_column("one_time_codes", sa.Column("claim_id", sa.Uuid(), nullable=True))
    op.add_column("one_time_codes", sa.Column("sealed", sa.Text(), nullable=True))
    op.add_column("one_time_codes", sa.Column("guesses", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_one_time_codes_unsent",
        "one_time_codes",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("sealed IS NOT NULL"),
    )
    op.create_check_constraint(
        op.f("ck_one_time_codes_guesses_are_bounded"), "one_time_codes", "guesses BETWEEN 0 AND 5"
    )
    op.add_column("users", sa.Column("claim_origin", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("users", "claim_origin")
    op.drop_index(
        "ix_one_time_codes_unsent", table_name="one_time_codes", postgresql_where=sa.text("sealed IS NOT NULL")
    )
    op.drop_constraint(op.f("ck_one_time_codes_guesses_are_bounded"), "one_time_codes", type_="check")
    op.drop_column("one_time_codes", "guesses")
    op.drop_column("one_time_codes", "sealed")
    op.drop_column("one_time_codes", "claim_id")
    op.drop_index(op.f("ix_auth_sessions_last_used_at"), table_name="auth_sessions")
    op.drop_index(
        "uq_refresh_rotations_current", table_name="refresh_rotations", postgresql_where=sa.text("used_at IS NULL")
    )
    op.drop_index(op.f("ix_refresh_rotations_session_id"), table_name="refresh_rotations")
    op.drop_index(op.f("ix_refresh_rotations_used_at"), table_name="refresh_rotations")
    op.drop_table("refresh_rotations")
    op.drop_index(op.f("ix_number_guards_touched_at"), table_name="number_guards")
    op.drop_table("number_guards")
