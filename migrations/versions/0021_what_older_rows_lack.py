"""What rows of before 0010, 0012 and 0016 lack: all counts of tokens, who named a chatroom, whose a charge is

Revision: 0021, after 0020

In batches that are committed one by one, while the version of before serves. Rows that somebody else holds are left
out: they are not waited for.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

BATCH = 1_000
TOKENS = """thinking_tokens = coalesce(thinking_tokens, 0), cached_tokens = coalesce(cached_tokens, 0),
    total_tokens = prompt_tokens + output_tokens + coalesce(thinking_tokens, 0)
FROM batch WHERE messages.id = batch.id AND coalesce(total_tokens, 0) = 0
    AND prompt_tokens IS NOT NULL AND output_tokens IS NOT NULL"""
TITLE = "title_source = 'user' FROM batch WHERE chatrooms.id = batch.id AND title IS NOT NULL AND title_source IS NULL"
OWNER = """user_id = chatrooms.user_id
FROM batch, messages JOIN chatrooms ON chatrooms.id = chatroom_id
WHERE prompt_charges.id = batch.id AND messages.id = reply_id AND chatrooms.user_id IS NOT NULL
    AND prompt_charges.user_id IS NULL AND carried_from IS NULL"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, change in (("messages", TOKENS), ("chatrooms", TITLE), ("prompt_charges", OWNER)):
            fill = sa.text(
                f"""WITH seen AS (SELECT id FROM {table} WHERE id > :behind ORDER BY id LIMIT {BATCH}),
                batch AS (SELECT id FROM {table} WHERE id IN (SELECT id FROM seen) FOR UPDATE SKIP LOCKED),
                filled AS (UPDATE {table} SET {change})
                SELECT id FROM seen ORDER BY id DESC LIMIT 1"""  # noqa: S608  # nosec B608
            )
            behind = "00000000-0000-0000-0000-000000000000"
            while behind:
                behind = op.get_bind().scalar(fill, {"behind": behind})


def downgrade() -> None:
    """Nothing: the code of before takes these rows as well."""
