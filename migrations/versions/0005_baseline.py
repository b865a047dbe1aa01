"""The schema that everything starts from.

Revision: 0005, after nothing

It joins the five migrations from before anything was deployed. It has the id of the last of them, so that a developer's
database that has them all goes on from here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = None
branch_labels = None
depends_on = None

TICKETS = sa.Sequence("stripe_fetch_tickets", data_type=sa.BigInteger())
TABLES = """
    one_time_codes, number_guards, users, auth_sessions, refresh_rotations, chatrooms, pro_grants, messages,
    idempotency_keys, prompt_charges, stripe_events, stripe_customers, subscriptions, heartbeats, totals
"""


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
        sa.Column("sealed", sa.Text(), nullable=True),
        sa.Column("guesses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("guesses BETWEEN 0 AND 5", name=op.f("ck_one_time_codes_guesses_are_bounded")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_one_time_codes")),
    )
    op.create_index(op.f("ix_one_time_codes_expires_at"), "one_time_codes", ["expires_at"])
    op.create_index(
        op.f("ix_one_time_codes_mobile_key_purpose_created_at"),
        "one_time_codes",
        ["mobile_key", "purpose", "created_at"],
    )
    op.create_index(
        "ix_one_time_codes_unsent", "one_time_codes", ["created_at"], postgresql_where=sa.text("sealed IS NOT NULL")
    )
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
    op.create_index(op.f("ix_number_guards_touched_at"), "number_guards", ["touched_at"])
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
    op.create_index(op.f("ix_auth_sessions_user_id"), "auth_sessions", ["user_id"])
    op.create_index(op.f("ix_auth_sessions_last_used_at"), "auth_sessions", ["last_used_at"])
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
    op.create_index(op.f("ix_refresh_rotations_used_at"), "refresh_rotations", ["used_at"])
    op.create_index(op.f("ix_refresh_rotations_session_id"), "refresh_rotations", ["session_id"])
    op.create_index(
        "uq_refresh_rotations_current",
        "refresh_rotations",
        ["session_id"],
        unique=True,
        postgresql_where=sa.text("used_at IS NULL"),
    )
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
    op.create_index("ix_chatrooms_newest_first", "chatrooms", ["user_id", "last_prompt_at", "id"])
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
    op.create_index(op.f("ix_pro_grants_user_id"), "pro_grants", ["user_id"])
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
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("enqueued_at", sa.DateTime(timezone=True), nullable=True),
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
        "ix_messages_finished",
        "messages",
        ["completed_at"],
        postgresql_where=sa.text("role = 'model' AND completed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_generating_by_room",
        "messages",
        ["chatroom_id"],
        unique=True,
        postgresql_where=sa.text("status = 'generating'"),
    )
    op.create_index(
        "ix_messages_unfinished",
        "messages",
        ["created_at"],
        postgresql_where=sa.text("status IN ('queued', 'generating')"),
    )
    op.create_index(
        "ix_messages_unfinished_by_room",
        "messages",
        ["chatroom_id", "position"],
        postgresql_where=sa.text("status IN ('queued', 'generating')"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("prompt_id", sa.Uuid(), nullable=False),
        sa.Column("answered_with_reply", sa.Boolean(), nullable=False),
        sa.Column("waits_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["messages.id"], name=op.f("fk_idempotency_keys_prompt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_idempotency_keys_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"])
    op.create_index(op.f("ix_idempotency_keys_prompt_id"), "idempotency_keys", ["prompt_id"])
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
    op.create_index(op.f("ix_prompt_charges_reply_id"), "prompt_charges", ["reply_id"])
    op.create_index(
        "ix_prompt_charges_spent",
        "prompt_charges",
        ["mobile_key", "day"],
        postgresql_where=sa.text("given_back_at IS NULL"),
    )
    op.execute(sa.schema.CreateSequence(TICKETS))
    op.create_table(
        "stripe_events",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stripe_events")),
    )
    op.create_index(op.f("ix_stripe_events_received_at"), "stripe_events", ["received_at"])
    op.create_table(
        "stripe_customers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("stripe_id", sa.String(length=255), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("session_id", sa.String(length=255), nullable=True),
        sa.Column("session_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_stripe_customers_user_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stripe_customers")),
        sa.UniqueConstraint("stripe_id", name=op.f("uq_stripe_customers_stripe_id")),
    )
    op.create_index("ix_stripe_customers_checked_at", "stripe_customers", ["checked_at"])
    op.create_index("ix_stripe_customers_user_id", "stripe_customers", ["user_id"])
    op.create_index(
        "uq_stripe_customers_user_id",
        "stripe_customers",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("user_id IS NOT NULL AND deleted_at IS NULL"),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("price_id", sa.String(length=255), nullable=True),
        sa.Column("current_period_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("current_period_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_at_period_end", sa.Boolean(), nullable=False),
        sa.Column("past_due_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ticket", sa.BigInteger(), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["customer_id"], ["stripe_customers.id"], name=op.f("fk_subscriptions_customer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
    )
    op.create_index(op.f("ix_subscriptions_customer_id"), "subscriptions", ["customer_id"])
    op.create_table(
        "heartbeats",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_heartbeats")),
    )
    op.create_table(
        "totals",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("label", sa.String(length=50), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "label", name=op.f("pk_totals")),
    )


def downgrade() -> None:
    op.execute(f"DROP TABLE {TABLES}")
    op.execute(sa.schema.DropSequence(TICKETS))
