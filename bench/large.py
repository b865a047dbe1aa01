"""A database with a million of everything, and PostgreSQL's plans for the statements that run on it all the time.

`python -m bench.large [plans]` fills a fresh one and prints a row for each case; with `plans`, its costliest plan too.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask

from app.account.service import delete_account
from app.account.tasks import delete_ended, purge_account, purge_chatroom
from app.core.clock import utc_now
from app.core.db import answers_within, db
from app.core.transactions import transaction
from app.generation.conversation import conversation
from app.generation.service import failed_replies, retry_failed
from app.generation.titles import untitled_chatrooms
from app.generation.worker import sweep_replies
from app.ops.totals import queue
from bench.application import application

HOUR_SECONDS = 3_600


@dataclass(frozen=True)
class Size:
    """How much to fill in. Half of the backlog waits one to a room, the other half in `backlog / 1000` rooms."""

    messages: int = 1_000_000
    long_room: int = 100_000
    sessions: int = 1_000_000
    backlog: int = 1_000_000
    users: int = 1_000


def name(kind: str, number: str = "n") -> str:
    """Return SQL for an id that is always the same for the same number."""
    return f"md5('{kind}' || {number})::uuid"


MESSAGE = "INSERT INTO messages (id, chatroom_id, position, role, text, status, in_reply_to, created_at, completed_at,"
MESSAGE += " streamed, attempt, failures, accepted_at, enqueued_at, error_code)"
ROOM = "CASE WHEN n <= :long_room / 2 THEN 0 ELSE 1 + n % 1000 END"
POSITION = "2 * (CASE WHEN n <= :long_room / 2 THEN n ELSE n / 1000 END)"
TURNS = """CASE WHEN n = 0 THEN :long_room + 2 WHEN n < 2000 THEN :messages / 1000 + 2
    WHEN n < 10000 THEN 2004 ELSE 2 END"""
WAITING_POSITION = "CASE WHEN n <= :backlog / 2 THEN 0 ELSE 2 * (n / greatest(1, :backlog / 1000)) END"
WAITING_ROOM = "CASE WHEN n <= :backlog / 2 THEN 10000 + n ELSE 2000 + n % greatest(1, :backlog / 1000) END"
FILL = (
    f"""INSERT INTO users (id, mobile, created_at, verified_at)
    SELECT {name("user")}, '+1415' || (1000000 + n), now(), now() FROM generate_series(0, :users - 1) n""",
    f"""INSERT INTO chatrooms (id, user_id, title, turns, created_at, updated_at, last_prompt_at)
    SELECT {name("room")}, {name("user", "n % :users")}, 'Room ' || n, {TURNS}, now(), now(), now()
    FROM (SELECT generate_series(0, 2000 + greatest(1, :backlog / 1000)) UNION ALL
          SELECT 10000 + generate_series(1, :backlog / 2)) numbers(n)""",
    f"""{MESSAGE} SELECT {name("prompt")}, {name("room", f"({ROOM})")}, {POSITION}, 'user', repeat('Prompt ', 15),
        'completed', NULL, now() - n * interval '1 s', now() - n * interval '1 s', false, 0, 0, NULL, NULL, NULL
    FROM generate_series(1, :messages / 2) n""",
    f"""{MESSAGE} SELECT {name("reply")}, {name("room", f"({ROOM})")}, {POSITION} + 1, 'model', repeat('Reply ', 15),
        CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'completed' END, {name("prompt")}, now() - n * interval '1 s',
        now() - n * interval '1 s', false, 1, 0, now(), now(), CASE WHEN n % 1000 = 0 THEN 'model_timeout' END
    FROM generate_series(1, :messages / 2) n""",
    f"""INSERT INTO prompt_charges (id, mobile_key, day, reply_id, created_at)
    SELECT gen_random_uuid(), md5('key' || n % :users), current_date, {name("reply")}, now()
    FROM generate_series(1, :messages / 2) n""",
    f"""INSERT INTO auth_sessions (id, user_id, created_at, last_used_at, revoked_at)
    SELECT {name("session")}, {name("user", "n % :users")}, now(), now() - n * interval '1 s' / 1000,
        CASE WHEN n % 10 = 0 THEN now() END FROM generate_series(1, :sessions) n""",
    f"""INSERT INTO refresh_rotations (id, session_id, created_at)
    SELECT gen_random_uuid(), {name("session")}, now() FROM generate_series(1, :sessions) n""",
)
BACKLOG = (
    f"""{MESSAGE} SELECT {name("waiting prompt")}, {name("room", f"({WAITING_ROOM})")}, {WAITING_POSITION}, 'user',
        'Prompt', 'completed', NULL, now(), now(), false, 0, 0, NULL, NULL, NULL FROM generate_series(1, :backlog) n""",
    # For a day, the first of each room counts as just queued; those behind it were queued an hour ago. None is lost.
    f"""{MESSAGE} SELECT {name("waiting")}, {name("room", f"({WAITING_ROOM})")}, {WAITING_POSITION} + 1, 'model', NULL,
        'queued', {name("waiting prompt")}, now() - interval '1 hour', NULL, false, 0, 0, now(),
        now() - CASE WHEN n > :backlog / 2 + greatest(1, :backlog / 1000) THEN interval '1 h' ELSE interval '-1 d' END,
        NULL
    FROM generate_series(1, :backlog) n""",
)


@contextmanager
def answered_within_an_hour(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection that commits each statement by itself and lets it take long."""
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with answers_within(HOUR_SECONDS), engine.connect() as connection:
        connection.execute(sa.text("SET statement_timeout = 0"))
        connection.execute(sa.text("SET session_replication_role = replica"))  # the rows fit together: skip the checks
        yield connection
        connection.invalidate()  # so that its settings go with it


def fill(engine: sa.Engine, size: Size, *, counted: bool = True) -> None:
    """Fill an empty database, and let PostgreSQL analyze it. counted: whether it analyzes the backlog too."""
    with answered_within_an_hour(engine) as connection:
        for statement in (*FILL, "VACUUM ANALYZE", *BACKLOG, *(["VACUUM ANALYZE"] if counted else [])):
            values = {key: value for key, value in vars(size).items() if f":{key}" in statement}
            connection.execute(sa.text(statement), values)


@dataclass
class Plan:
    """How PostgreSQL ran one statement."""

    statement: str
    document: dict[str, Any]
    text: str = field(repr=False, default="")

    def nodes(self, node: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        node = node or self.document["Plan"]
        yield node
        for child in node.get("Plans", ()):
            yield from self.nodes(child)

    @property
    def scanned_whole(self) -> set[str]:
        """The tables that were read from end to end, without an index."""
        return {node["Relation Name"] for node in self.nodes() if node["Node Type"] == "Seq Scan"}

    @property
    def buffers(self) -> int:
        """Pages of 8 KB that were looked at."""
        plan = self.document["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    @property
    def milliseconds(self) -> float:
        return float(self.document["Execution Time"])


@contextmanager
def explained(engine: sa.Engine) -> Iterator[list[Plan]]:
    """Run every statement of the block twice: first to explain it, which is undone at once, then for real."""
    plans: list[Plan] = []

    def explain(_connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            return
        is_alone = cursor.connection.autocommit
        cursor.execute("BEGIN" if is_alone else "SAVEPOINT explain")
        try:
            cursor.execute("SET LOCAL statement_timeout = 0")
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
            plans.append(Plan(statement, cursor.fetchone()[0][0]))
        finally:
            cursor.execute("ROLLBACK" if is_alone else "ROLLBACK TO SAVEPOINT explain")

    sa.event.listen(engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        sa.event.remove(engine, "before_cursor_execute", explain)


def room_id(number: int) -> UUID:
    return UUID(str(db.session.execute(sa.text(f"SELECT {name('room', str(number))}")).scalar_one()))


def cases() -> dict[str, Callable[[], object]]:
    """Return by name what runs all the time, or when an operator asks for it."""
    now, failed = utc_now(), timedelta(days=365)
    return {
        "sweeper, nothing lost": lambda: sweep_replies(now=now, requeue_after=timedelta(seconds=8)),
        "account.delete_ended": lambda: delete_ended(now=now),
        "replies failed": lambda: failed_replies(limit=50),
        "replies retry --all": lambda: retry_failed(None, until=now - failed, now=now),
        "conversation": lambda: conversation(room_id(0), 100_001, "Hi", max_chars=48_000),
        "metrics: the queue": lambda: queue(now),
        "chatrooms.sweep_untitled": lambda: untitled_chatrooms(now),
    }


def measure(app: Flask) -> None:
    print("| statement | ms | buffers | tables read from end to end |\n|---|---|---|---|")
    with app.app_context(), answers_within(HOUR_SECONDS), explained(db.engine) as plans:
        for name_of_case, run in cases().items():
            plans.clear()
            with suppress(sa.exc.OperationalError):  # the product's own limit of 4 s
                run()
            db.session.rollback()
            worst = max(plans, key=lambda plan: plan.buffers)
            whole = ", ".join(sorted(set().union(*(plan.scanned_whole for plan in plans)))) or "none"
            spent = sum(plan.milliseconds for plan in plans)
            print(f"| {name_of_case} | {spent:,.0f} | {sum(p.buffers for p in plans):,} | {whole} |", flush=True)
            if "plans" in sys.argv:
                print(json.dumps({"statement": worst.statement, "plan": worst.document}, indent=1))


def measure_deletion(app: Flask) -> None:
    """Delete an account with a million messages in a thousand chatrooms: the request, and the purge after it."""
    with app.app_context():
        user_id = db.session.execute(sa.text(f"SELECT {name('user', '7')}")).scalar_one()
        with answers_within(HOUR_SECONDS), transaction():
            db.session.execute(sa.text("SET LOCAL statement_timeout = 0"))
            rooms = f"SELECT {name('room')} FROM generate_series(0, 1000) n"
            owned = sa.text(f"UPDATE chatrooms SET user_id = :user WHERE id IN ({rooms})")
            db.session.execute(owned, {"user": user_id})
        began = time.monotonic()
        delete_account(user_id, now=utc_now())
        answered = time.monotonic()
        print(f"\nDeletion: {answered - began:.3f} s", flush=True)
        batches = 0
        while purge_account() or purge_chatroom():
            batches += 1
        done = time.monotonic()
        print(f"Purge: {done - answered:.0f} s in {batches:,} transactions")


if __name__ == "__main__":
    with application() as app:
        with app.app_context():
            fill(db.engine, Size())
        measure(app)
        measure_deletion(app)
