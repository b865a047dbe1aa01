"""Why a reply ended, what it took in tokens, and how much of its room Gemini saw; replies that were all thinking

Revision: 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NUMBERS = ("thinking_tokens", "cached_tokens", "total_tokens", "messages_sent", "messages_omitted")
CODES = ["model_unavailable", "model_timeout", "blocked_by_safety", "model_rejected", "empty_reply"]
REASONS = "finish_reason IN ('stop', 'max_tokens', 'time_limit')"


def upgrade() -> None:
    op.add_column("messages", sa.Column("finish_reason", sa.String(32), nullable=True), if_not_exists=True)
    for name in NUMBERS:
        op.add_column("messages", sa.Column(name, sa.Integer(), nullable=True), if_not_exists=True)
    check_codes([*CODES, "output_limit"])
    check("finish_reason_is_known", REASONS)


def downgrade() -> None:
    op.execute("UPDATE messages SET error_code = 'empty_reply' WHERE error_code = 'output_limit'")
    check_codes(CODES)
    for name in ("finish_reason", *NUMBERS):
        op.drop_column("messages", name)


def check_codes(codes: list[str]) -> None:
    check("error_code_is_known", f"error_code IN ({', '.join(map(repr, codes))})")


def check(name: str, condition: str) -> None:
    """Replace a constraint of `messages`. Writers go on while PostgreSQL checks the rows.

    The check commits what is before it. If this is cut short, all of it can be run again.
    """
    op.execute(f"ALTER TABLE messages DROP CONSTRAINT IF EXISTS ck_messages_{name}")
    op.execute(f"ALTER TABLE messages ADD CONSTRAINT ck_messages_{name} CHECK ({condition}) NOT VALID")
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE messages VALIDATE CONSTRAINT ck_messages_{name}")
