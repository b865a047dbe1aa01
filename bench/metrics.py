"""What a scrape of /metrics, a tick's count and the naive count cost with a million messages in the database."""

import statistics
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import text

from app.core.clock import utc_now
from app.core.db import answers_within, db
from app.ops import metrics
from app.ops import totals as rollup
from bench.application import application

REPLIES = 500_000  # and as many prompts
FILL = """
WITH somebody AS (
    INSERT INTO users (id, mobile, created_at) VALUES (gen_random_uuid(), '+14155550100', now()) RETURNING id
), rooms AS (
    INSERT INTO chatrooms (id, user_id, title, turns, created_at, updated_at, last_prompt_at)
    SELECT gen_random_uuid(), somebody.id, 'A room', 100, now(), now(), now()
    FROM somebody, generate_series(1, :rooms) RETURNING id
), numbered AS (SELECT id, row_number() OVER () AS n FROM rooms), prompts AS (
    INSERT INTO messages (id, chatroom_id, position, role, text, status, created_at, completed_at, attempt, failures,
                          streamed)
    SELECT gen_random_uuid(), numbered.id, exchange * 2, 'user', repeat('word ', 20), 'completed', at, at, 0, 0, false
    FROM numbered, generate_series(0, 49) AS exchange,
         LATERAL (SELECT now() - (:rooms * 50 - numbered.n * 50 - exchange) * interval '0.1 second' AS at) AS moment
    RETURNING id, chatroom_id, position, created_at
)
INSERT INTO messages (id, chatroom_id, position, role, text, status, in_reply_to, created_at, completed_at, attempt,
                      failures, streamed, prompt_tokens, output_tokens)
SELECT gen_random_uuid(), chatroom_id, position + 1, 'model', repeat('word ', 60), 'completed', id, created_at,
       created_at + interval '1.5 second', 1, 0, false, 20, 60
FROM prompts
"""
QUEUE = """
UPDATE messages SET status = 'queued', completed_at = NULL, text = NULL
WHERE id IN (SELECT id FROM messages WHERE role = 'model' ORDER BY created_at DESC LIMIT :queued)
"""
NAIVE = "SELECT status, error_code, count(*), sum(output_tokens) FROM messages WHERE role = 'model' GROUP BY 1, 2"


def milliseconds(action: Callable[[], object], *, times: int = 9) -> str:
    """The median of some runs."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append((time.perf_counter() - began) * 1_000)
    return f"{statistics.median(taken):.1f} ms"


def main() -> None:
    with application() as app, app.app_context(), answers_within(600):
        db.session.execute(text("SET statement_timeout = 0"))
        db.session.execute(text(FILL), {"rooms": REPLIES // 50})
        db.session.commit()
        db.session.execute(text("ANALYZE"))
        db.session.commit()
        report()


def report() -> None:
    now = utc_now()
    print(f"{2 * REPLIES:,} messages, ten replies a second\n")
    print(f"counting all replies at the scrape  {milliseconds(lambda: db.session.execute(text(NAIVE)).all(), times=3)}")
    rollup.count_replies(now)
    print(f"a scrape, queue empty               {milliseconds(metrics.exposition)}")
    for queued in (1_000, 50_000):
        db.session.execute(text(QUEUE), {"queued": queued})
        db.session.commit()
        print(f"a scrape, {queued:>6,} replies queued    {milliseconds(metrics.exposition, times=3)}")
    db.session.execute(text("UPDATE heartbeats SET at = now() - interval '3 hours'"))
    db.session.commit()
    print(f"catching up with an hour            {milliseconds(lambda: rollup.count_replies(now), times=1)}")
    for _ in range(3):
        rollup.count_replies(now)
    ten = timedelta(seconds=10)
    db.session.execute(text("UPDATE heartbeats SET at = :at"), {"at": now - timedelta(minutes=50)})
    db.session.commit()
    began = time.perf_counter()
    rollup.count_replies(now - timedelta(minutes=50) + rollup.SETTLING + ten)
    print(f"a tick, ten seconds of replies      {(time.perf_counter() - began) * 1_000:.1f} ms")
