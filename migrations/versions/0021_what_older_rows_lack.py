"""What rows of before 0010, 0012 and 0016 lack: all counts of tokens, who named a chatroom, whose a charge is

Revision: 0021, after 0020

Only rows that have ended, or that nobody writes to, are written.
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

TOKENS = """
UPDATE messages SET thinking_tokens = coalesce(thinking_tokens, 0), cached_tokens = coalesce(cached_tokens, 0),
    total_tokens = prompt_tokens + output_tokens + coalesce(thinking_tokens, 0)
WHERE total_tokens IS NULL AND prompt_tokens IS NOT NULL AND output_tokens IS NOT NULL"""
TITLES = "UPDATE chatrooms SET title_source = 'user' WHERE title IS NOT NULL AND title_source IS NULL"
CHARGES = """
UPDATE prompt_charges SET user_id = chatrooms.user_id FROM messages JOIN chatrooms ON chatrooms.id = chatroom_id
WHERE messages.id = reply_id AND chatrooms.user_id IS NOT NULL
    AND prompt_charges.user_id IS NULL AND carried_from IS NULL"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in (TOKENS, TITLES, CHARGES):
            op.execute(statement)


def downgrade() -> None:
    """Nothing: the code of before takes these rows as well."""
