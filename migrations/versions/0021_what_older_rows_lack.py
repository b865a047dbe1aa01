"""What rows from before 0010, 0012 and 0016 lack: all counts of tokens, who named a chatroom, whose a charge is

Revision: 0021, after 0020

Rows are filled in batches that are committed one by one, while the previous version serves. Rows that somebody else has
locked come last, one by one: the migration waits only for those, and holds no lock meanwhile.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

BATCH = 1_000
TOKENS = """
WITH seen AS (
    SELECT id FROM messages WHERE id > :behind AND coalesce(total_tokens, 0) = 0
        AND prompt_tokens IS NOT NULL AND output_tokens IS NOT NULL ORDER BY id LIMIT :batch
),
free AS (SELECT id FROM messages WHERE id IN (SELECT id FROM seen) FOR UPDATE {skip_locked}),
filled AS (
    UPDATE messages SET thinking_tokens = coalesce(thinking_tokens, 0), cached_tokens = coalesce(cached_tokens, 0),
        total_tokens = prompt_tokens + output_tokens + coalesce(thinking_tokens, 0)
    FROM free WHERE messages.id = free.id
)
SELECT id FROM seen ORDER BY id DESC LIMIT 1"""
TITLES = """
WITH seen AS (
    SELECT id FROM chatrooms WHERE id > :behind AND title IS NOT NULL AND title_source IS NULL
    ORDER BY id LIMIT :batch
),
free AS (SELECT id FROM chatrooms WHERE id IN (SELECT id FROM seen) FOR UPDATE {skip_locked}),
filled AS (UPDATE chatrooms SET title_source = 'user' FROM free WHERE chatrooms.id = free.id AND title_source IS NULL)
SELECT id FROM seen ORDER BY id DESC LIMIT 1"""
OWNERS = """
WITH seen AS (
    SELECT id FROM prompt_charges WHERE id > :behind AND user_id IS NULL AND carried_from IS NULL
        AND reply_id IS NOT NULL ORDER BY id LIMIT :batch
),
free AS (SELECT id FROM prompt_charges WHERE id IN (SELECT id FROM seen) FOR UPDATE {skip_locked}),
filled AS (
    UPDATE prompt_charges SET user_id = chatrooms.user_id
    FROM free, messages JOIN chatrooms ON chatrooms.id = chatroom_id
    WHERE prompt_charges.id = free.id AND messages.id = reply_id AND chatrooms.user_id IS NOT NULL
        AND prompt_charges.user_id IS NULL
)
SELECT id FROM seen ORDER BY id DESC LIMIT 1"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in (TOKENS, TITLES, OWNERS):
            for batch, skip_locked in ((BATCH, "SKIP LOCKED"), (1, "")):
                filling = sa.text(statement.format(skip_locked=skip_locked))
                behind = "00000000-0000-0000-0000-000000000000"
                while behind:
                    behind = op.get_bind().scalar(filling, {"behind": behind, "batch": batch})


def downgrade() -> None:
    """Do nothing: the previous version reads these rows as well."""
