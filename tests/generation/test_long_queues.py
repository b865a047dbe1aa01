"""How much of a long queue is read by a claim, and by the end of a reply."""

from datetime import timedelta

import pytest
from sqlalchemy import event, text

from app.chatrooms.models import Status, messages
from app.core.db import db
from app.core.transactions import transaction
from app.generation import state
from app.generation.queueing import HAS_WAITING_REPLIES, TAKE_NEXT, mark_enqueued
from tests.transactions import undone

LEASE = timedelta(seconds=5)
BLOCKS_AT_MOST = 150  # the statement writes to each index
READ_AT_MOST = 40  # rows: the reply, its prompt, and a few for each condition

FILL = """
WITH room AS (SELECT id FROM chatrooms LIMIT 1), exchanges AS (
    SELECT gen_random_uuid() AS prompt_id, gen_random_uuid() AS reply_id, 2 * n AS position
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
), prompts AS (
    INSERT INTO messages (id, chatroom_id, position, role, text, status, created_at, completed_at, streamed, attempt,
        failures)
    SELECT prompt_id, room.id, position, 'user', 'Hello', 'completed', now(), now(), false, 0, 0 FROM exchanges, room
)
INSERT INTO messages
    (id, chatroom_id, position, role, in_reply_to, status, text, created_at, completed_at, streamed,
    attempt, failures)
SELECT reply_id, room.id, position + 1, 'model', prompt_id, CAST(:status AS text), 'Hi', now(),
    CASE WHEN CAST(:status AS text) = 'completed' THEN now() END, false, 0, 0 FROM exchanges, room
"""


def nodes(plan):
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def plan_of(room, action):
    """Return how PostgreSQL carries out the one statement that the product sends. Nothing is changed."""
    sent = []

    def note(_connection, cursor, statement, parameters, *_):
        sent.append(cursor.mogrify(statement, parameters).decode())

    with room.app.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
        with undone():
            action()
        event.remove(db.engine, "before_cursor_execute", note)
        [statement] = sent
        with undone():
            explained = db.session.connection().exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
            [[[plan]]] = explained
    return list(nodes(plan["Plan"]))


def assert_few_rows_are_read(plan):
    scans = [
        (node["Node Type"], node.get("Index Name"), node["Actual Loops"] * rows_read(node))
        for node in plan
        if node.get("Relation Name") == "messages" and "Scan" in node["Node Type"]
    ]
    assert scans
    assert "Seq Scan" not in {kind for kind, _, _ in scans}, scans
    assert sum(rows for _, _, rows in scans) < READ_AT_MOST, scans
    assert plan[0]["Shared Hit Blocks"] + plan[0]["Shared Read Blocks"] < BLOCKS_AT_MOST, scans


def rows_read(node):
    return node["Actual Rows"] + node.get("Rows Removed by Filter", 0)


@pytest.fixture(params=["fresh", "from before the burst"])
def crowded_room(room, request):
    """A room with a long history and 10,000 replies that wait. The parameter is what the planner knows of them."""
    for first, last in ((1, 1_000), (1_001, 10_000)):  # from the second on, foreign keys are checked by the index
        room.sql(FILL, first=first, last=last, status="completed")
        room.sql("ANALYZE messages, chatrooms")
    room.sql(FILL, first=10_001, last=20_000, status="queued")
    if request.param == "fresh":
        room.sql("ANALYZE messages, chatrooms")
    yield room
    room.sql("TRUNCATE messages CASCADE")  # deleting row by row takes seconds


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_claim_in_a_room_with_ten_thousand_queued_replies_reads_few_rows(crowded_room, place):
    order = "" if place == "first" else "DESC"
    with crowded_room.app.app_context():
        queued = text(f"SELECT id FROM messages WHERE status = 'queued' ORDER BY position {order} LIMIT 1")
        reply_id = db.session.scalar(queued)
    assert_few_rows_are_read(plan_of(crowded_room, lambda: state.claim(reply_id, lease=LEASE)))


def test_the_end_of_a_reply_in_a_room_with_ten_thousand_queued_ones_reads_few_rows(crowded_room):
    with crowded_room.app.app_context():
        queued = text("SELECT id FROM messages WHERE status = 'queued' ORDER BY position LIMIT 1")
        with transaction():
            held = state.claim(db.session.scalar(queued), lease=LEASE)
        where = {"room": held.chatroom_id, "user": held.user_id, "exclude": None}
        for action in (
            lambda: state.renew([held], lease=LEASE),
            lambda: db.session.scalar(HAS_WAITING_REPLIES, where),
            lambda: db.session.scalars(TAKE_NEXT, where).all(),
            lambda: mark_enqueued(messages.c.id.in_([held.reply_id]), held.now()),
            lambda: state.write(
                held, state.CLEAR_LEASE | {"status": Status.COMPLETED, "text": "Hi", "completed_at": held.now()}
            ),
        ):
            assert_few_rows_are_read(plan_of(crowded_room, action))
