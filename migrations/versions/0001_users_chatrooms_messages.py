"""users chatrooms messages

Revision: 0001, after
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "one_time_codes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("mobile_key", sa.String(length=64), nullable=False),
        sa.Column(
            "purpose",
            sa.Enum(
                "login", "reset_password", name="purpose_is_known", native_enum=False, create_constraint=True, length=32
            ),
            nullable=False,
        ),
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_one_time_codes")),
    )
    op.create_index(op.f("ix_one_time_codes_expires_at"), "one_time_codes", ["expires_at"], unique=False)
    op.create_index(
        op.f("ix_one_time_codes_mobile_key_purpose_created_at"),
        "one_time_codes",
        ["mobile_key", "purpose", "created_at"],
        unique=False,
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("mobile", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=True),
        sa.Column("password_hash", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("mobile ~ '^\\+[1-9][0-9]{6,14}$'", name=op.f("ck_users_mobile_is_e164")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("mobile", name=op.f("uq_users_mobile")),
    )
    op.create_table(
        "auth_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("ip", sa.String(length=45), nullable=True),
        sa.Column("user_agent", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_auth_sessions_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_auth_sessions")),
    )
    op.create_index(op.f("ix_auth_sessions_user_id"), "auth_sessions", ["user_id"], unique=False)
    op.create_table(
        "chatrooms",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.String(length=255), nullable=False),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_prompt_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("title <> ''", name=op.f("ck_chatrooms_title_is_not_empty")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_chatrooms_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chatrooms")),
    )
    op.create_index("ix_chatrooms_newest_first", "chatrooms", ["user_id", "last_prompt_at", "id"], unique=False)
    op.create_table(
        "pro_grants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_pro_grants_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pro_grants")),
    )
    op.create_index(op.f("ix_pro_grants_user_id"), "pro_grants", ["user_id"], unique=False)
    op.create_table(
        "messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("chatroom_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column(
            "role",
            sa.Enum("user", "model", name="role_is_known", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "generating",
                "completed",
                "failed",
                "canceled",
                name="status_is_known",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "error_code",
            sa.Enum(
                "model_unavailable",
                "model_timeout",
                "blocked_by_safety",
                "model_rejected",
                "empty_reply",
                name="error_code_is_known",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column("model", sa.String(length=100), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("in_reply_to", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(role = 'model') = (in_reply_to IS NOT NULL)", name=op.f("ck_messages_replies_answer_a_prompt")
        ),
        sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name=op.f("ck_messages_failed_has_code")),
        sa.CheckConstraint(
            "(status = 'generating') = (lease_expires_at IS NOT NULL)", name=op.f("ck_messages_generating_has_lease")
        ),
        sa.CheckConstraint(
            "role = 'model' OR (text IS NOT NULL AND status = 'completed')",
            name=op.f("ck_messages_prompts_are_complete"),
        ),
        sa.CheckConstraint("status <> 'completed' OR text <> ''", name=op.f("ck_messages_completed_has_text")),
        sa.ForeignKeyConstraint(
            ["chatroom_id"], ["chatrooms.id"], name=op.f("fk_messages_chatroom_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["in_reply_to"], ["messages.id"], name=op.f("fk_messages_in_reply_to"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("chatroom_id", "position", name=op.f("uq_messages_chatroom_id_position")),
        sa.UniqueConstraint("in_reply_to", name=op.f("uq_messages_in_reply_to")),
    )
    op.create_index(
        "ix_messages_unfinished",
        "messages",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('queued', 'generating')"),
    )
    op.create_index(
        "ix_messages_unfinished_by_room",
        "messages",
        ["chatroom_id", "position"],
        unique=False,
        postgresql_where=sa.text("status IN ('queued', 'generating')"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("prompt_id", sa.Uuid(), nullable=False),
        sa.Column("answered_with_reply", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["messages.id"], name=op.f("fk_idempotency_keys_prompt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_idempotency_keys_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_index(op.f("ix_idempotency_keys_prompt_id"), "idempotency_keys", ["prompt_id"], unique=False)
    op.create_table(
        "prompt_charges",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("mobile_key", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("reply_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("given_back_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["reply_id"], ["messages.id"], name=op.f("fk_prompt_charges_reply_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompt_charges")),
    )
    op.create_index(op.f("ix_prompt_charges_reply_id"), "prompt_charges", ["reply_id"], unique=False)
    op.create_index(
        "ix_prompt_charges_spent",
        "prompt_charges",
        ["mobile_key", "day"],
        unique=False,
        postgresql_where=sa.text("given_back_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_prompt_charges_spent", table_name="prompt_charges", postgresql_where=sa.text("given_back_at IS NULL")
    )
    op.drop_index(op.f("ix_prompt_charges_reply_id"), table_name="prompt_charges")
    op.drop_table("prompt_charges")
    op.drop_index(op.f("ix_idempotency_keys_prompt_id"), table_name="idempotency_keys")
    op.drop_index(op.f("ix_idempotency_keys_created_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index(
        "ix_messages_unfinished_by_room",
        table_name="messages",
        postgresql_where=sa.text("status IN ('queued', 'generating')"),
    )
    op.drop_index(
        "ix_messages_unfinished", table_name="messages", postgresql_where=sa.text("status IN ('queued', 'generating')")
    )
    op.drop_table("messages")
    op.drop_index(op.f("ix_pro_grants_user_id"), table_name="pro_grants")
    op.drop_table("pro_grants")
    op.drop_index("ix_chatrooms_newest_first", table_name="chatrooms")
    op.drop_table("chatrooms")
    op.drop_index(op.f("ix_auth_sessions_user_id"), table_name="auth_sessions")
    op.drop_table("auth_sessions")
    op.drop_table("users")
    op.drop_index(op.f("ix_one_time_codes_mobile_key_purpose_created_at"), table_name="one_time_codes")
    op.drop_index(op.f("ix_one_time_codes_expires_at"), table_name="one_time_codes")
    op.drop_table("one_time_codes")
