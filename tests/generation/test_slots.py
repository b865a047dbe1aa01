"""A bound on the replies of one user that are generated at the same time: no user ever takes all of a worker."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import psycopg2
import pytest

from app.account.tasks import purge_chatroom
from app.chatrooms.models import ErrorCode, Status
from app.core.broker import GENERATIONS
from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from app.generation import state
from app.generation.queueing import enqueue_next_replies
from app.integrations.gemini.client import Answer, FinishReason, TokenUsage
from app.ops.totals import queue
from sandbox.stack.processes import wait_until
from tests.celery_process import celery_process
from tests.queues import waiting_tasks
from tests.rooms import Room, cancel, somebody_waits_for_a_lock, sweep

SLOTS = 2
LEASE = timedelta(seconds=60)
ANSWER = Answer("Done.", "gemini-3.5-flash", FinishReason.STOP, TokenUsage())


@pytest.fixture
def two_slots(app, make_app, make_redis_url):
    """The application, where two replies of a user are generated at a time and no worker listens."""
    yield make_app(redis_url=make_redis_url(), generations_per_user=SLOTS, gemini_timeout=30, basic_daily_prompts=100)
    app.extensions["celery"].set_default()


@pytest.fixture
def rooms(two_slots, make_user):
    """Six rooms of one user."""
    person = make_user()
    person.client = two_slots.test_client()
    return [Room(two_slots, person, person.make_chatroom(str(number))) for number in range(6)]


@pytest.fixture
def forget_tasks(two_slots):
    """Return what empties the queue, as if workers had taken every task."""
    return two_slots.extensions["redis"].flushdb


def tasks_of(app):
    return [arguments[0] for _, arguments in waiting_tasks(app.extensions["redis"], GENERATIONS)]


def states(rooms, replies):
    return [rooms[0].row(reply_id).status for reply_id in replies]


def take(room, reply_id):
    with room.app.app_context(), transaction():
        return state.claim(reply_id, lease=LEASE)


def test_a_reply_over_the_bound_waits_without_a_thread_and_follows_when_one_ends(
    two_slots, rooms, make_runner, gemini, forget_tasks
):
    runner = make_runner()
    gemini.behave(hang=True)
    held = [room.send("Hello") for room in rooms[:SLOTS]]
    threads = [room.generate_meanwhile(runner, reply) for room, reply in zip(rooms, held, strict=False)]
    gemini.wait_for(in_flight_at_least=SLOTS)
    refused = [room.send("Hello") for room in rooms[SLOTS:]]
    for room, reply_id in zip(rooms[SLOTS:], refused, strict=True):
        room.generate(runner, reply_id)  # comes back at once
    assert states(rooms, refused) == [Status.QUEUED] * len(refused)
    assert {rooms[0].row(reply_id).attempt for reply_id in refused} == {0}
    forget_tasks()
    gemini.reset()
    for thread in threads:
        thread.join()
    assert sorted(tasks_of(two_slots)) == sorted(map(str, refused[:SLOTS])), "one for each slot, the oldest first"
    rooms[SLOTS].generate(runner, refused[0])
    assert rooms[SLOTS].read(refused[0]).status == "completed"
    assert str(refused[SLOTS]) in tasks_of(two_slots)


def complete(room, held):
    with room.app.app_context(), transaction() as tx:
        assert state.complete(tx, held, ANSWER)


def test_a_slot_that_comes_free_while_a_reply_is_refused_is_taken(rooms, make_runner, monkeypatch):
    held = [take(room, room.send("Hello")) for room in rooms[:SLOTS]]
    refused = rooms[SLOTS].send("Hello")
    runner, claim = make_runner(), state.claim

    def claim_meanwhile(reply_id, **kwargs):
        found = claim(reply_id, **kwargs)
        monkeypatch.undo()
        with ThreadPoolExecutor(1) as other:  # which sees no mark yet
            other.submit(complete, rooms[0], held[0]).result()
        return found

    monkeypatch.setattr(state, "claim", claim_meanwhile)
    rooms[SLOTS].generate(runner, refused)
    assert rooms[SLOTS].read(refused).status == "completed"


@pytest.mark.parametrize("hindrance", ["its room is busy again", "its room is deleted"])
def test_a_slot_is_not_offered_to_a_reply_that_cannot_take_it(two_slots, rooms, forget_tasks, hindrance):
    zero, one, two, three, *_ = rooms
    failed = two.send("Hello")
    held = take(two, failed)
    with two_slots.app_context(), transaction() as tx:
        assert state.fail(tx, held, ErrorCode.MODEL_TIMEOUT)
    in_slots = [take(room, room.send("Hello")) for room in (zero, one)]
    hindered, free = two.send("Hello"), three.send("Hello")
    assert take(two, hindered) is None
    if hindrance == "its room is deleted":
        assert two.person.delete(two.path).status_code == 204
    else:
        assert two.person.post(f"{two.path}/messages/{failed}/retry").status_code == 202
        assert take(two, failed) is None
        complete(zero, in_slots.pop())
        assert take(two, failed)
    assert take(three, free) is None
    forget_tasks()
    complete(zero, in_slots.pop())
    assert tasks_of(two_slots) == [str(free)]
    assert take(three, free)


def test_the_end_of_a_reply_holds_no_row_while_it_waits_for_one(two_slots, rooms, postgres, forget_tasks):
    """Two ends that wait for each other's rows deadlock, and their next replies begin only after a sweep."""
    for room in rooms[:SLOTS]:
        assert take(room, room.send("Hello"))
    marked, unmarked = (room.send("Hello") for room in rooms[SLOTS : SLOTS + 2])
    assert take(rooms[SLOTS], marked) is None
    forget_tasks()
    ended_in, user_id = UUID(rooms[SLOTS + 1].path.rpartition("/")[2]), UUID(rooms[0].person.id)

    def end():
        with two_slots.app_context():
            enqueue_next_replies(ended_in, user_id)

    lock = "SELECT id FROM messages WHERE id = %s FOR NO KEY UPDATE NOWAIT"
    with ThreadPoolExecutor(1) as thread, two_slots.app_context(), psycopg2.connect(postgres.url) as other:
        other.cursor().execute(lock, [str(marked)])
        ending = thread.submit(end)
        assert wait_until(somebody_waits_for_a_lock, seconds=30)
        other.cursor().execute(lock, [str(unmarked)])
        other.rollback()
        ending.result()
    other.close()
    assert sorted(tasks_of(two_slots)) == sorted(map(str, [marked, unmarked]))


def test_no_connection_is_held_after_the_look_for_waiting_replies(two_slots, rooms):
    """What follows the end of a reply may wait for Redis."""
    with two_slots.app_context():
        enqueue_next_replies(UUID(rooms[0].path.rpartition("/")[2]), UUID(rooms[0].person.id))
        assert db.engine.pool.checkedout() == 0


def test_a_deleted_chatroom_frees_its_slot(two_slots, rooms, make_runner, gemini, forget_tasks):
    runner = make_runner()
    gemini.behave(hang=True)
    held = [room.send("Hello") for room in rooms[:SLOTS]]
    threads = [room.generate_meanwhile(runner, reply) for room, reply in zip(rooms, held, strict=False)]
    gemini.wait_for(in_flight_at_least=SLOTS)
    refused = rooms[SLOTS].send("Hello")
    rooms[SLOTS].generate(runner, refused)
    forget_tasks()
    rooms[0].person.delete(rooms[0].path)
    with two_slots.app_context():
        assert purge_chatroom()
    threads[0].join(10)
    assert tasks_of(two_slots) == [str(refused)]
    gemini.reset()
    threads[1].join()


def test_another_user_is_not_limited_by_the_slots_of_the_first(two_slots, rooms, make_user):
    for room in rooms[:SLOTS]:
        assert take(room, room.send("Hello"))
    other = make_user()
    other.client = two_slots.test_client()
    room = Room(two_slots, other, other.make_chatroom())
    assert take(room, room.send("Hello"))


def test_claims_at_once_never_exceed_the_bound(rooms, make_runner):
    runner = make_runner()
    replies = [room.send("Hello") for room in rooms]
    together = threading.Barrier(len(rooms))

    def claim(room, reply_id):
        together.wait()
        with room.app.app_context():
            runner.claim(reply_id)

    for round_ in range(5):
        rooms[0].sql(
            "UPDATE messages SET status = 'queued', lease_expires_at = NULL, held_for = NULL, slot = NULL"
            " WHERE role = 'model'"
        )
        with ThreadPoolExecutor(len(rooms)) as threads:
            list(threads.map(claim, rooms, replies))
        assert sorted(states(rooms, replies)).count(Status.GENERATING) == SLOTS, round_
        assert [rooms[0].row(reply_id).held_for is not None for reply_id in replies] == [True] * len(rooms)


def test_a_dead_workers_replies_keep_their_slots(rooms):
    held = [room.send("Hello") for room in rooms[:SLOTS]]
    for reply_id in held:
        assert take(rooms[0], reply_id)
    rooms[0].let_leases_run_out()
    assert [take(rooms[0], reply_id).attempt for reply_id in held] == [2] * SLOTS


def test_the_sweeper_leaves_a_reply_over_the_bound_alone_and_finds_it_when_its_task_is_lost(rooms, forget_tasks):
    held = [room.send("Hello") for room in rooms[:SLOTS]]
    claims = [take(rooms[0], reply_id) for reply_id in held]
    refused = rooms[SLOTS].send("Hello")
    assert take(rooms[0], refused) is None
    forget_tasks()
    assert sweep(rooms[0], timedelta(minutes=5)) == []
    rooms[0].sql("DELETE FROM chatrooms WHERE id = :id", id=claims[0].chatroom_id)  # no task is queued for that
    assert sweep(rooms[0], timedelta(minutes=5)) == [refused]


def test_a_cancellation_frees_a_slot(two_slots, rooms, forget_tasks):
    held = [room.send("Hello") for room in rooms[:SLOTS]]
    for reply_id in held:
        assert take(rooms[0], reply_id)
    refused = rooms[SLOTS].send("Hello")
    assert take(rooms[0], refused) is None
    forget_tasks()
    assert rooms[0].person.post(f"{rooms[0].path}/messages/{held[0]}/cancel").status_code == 200
    assert tasks_of(two_slots) == [str(refused)]
    assert take(rooms[0], refused)


def test_a_canceled_reply_that_waited_takes_nobodys_turn(two_slots, rooms, forget_tasks):
    held = [take(room, room.send("Hello")) for room in rooms[:SLOTS]]
    refused = [room.send("Hello") for room in rooms[SLOTS : SLOTS + 3]]
    assert [take(rooms[0], reply_id) for reply_id in refused] == [None] * 3
    rooms[SLOTS + 1].send("Hello")
    assert cancel(rooms[SLOTS + 1], refused.pop(1)).status_code == 200
    assert take(rooms[0], refused[0]) is None  # queued by the cancellation, which freed no slot
    for claim, reply_id in zip(held, refused, strict=True):
        forget_tasks()
        complete(rooms[0], claim)
        assert tasks_of(two_slots) == [str(reply_id)]
        assert take(rooms[0], reply_id)


def test_a_reply_over_the_bound_is_not_due(two_slots, rooms):
    for room in rooms[: SLOTS + 1]:
        take(room, room.send("Hello"))
    rooms[0].sql("UPDATE messages SET created_at = now() - interval '1 hour'")
    with two_slots.app_context():
        assert queue(utc_now()).oldest_due_seconds == 0


@pytest.mark.processes
def test_forty_rooms_of_one_user_that_hang_delay_nobody_else(make_app, make_user, gemini, own_environment, tmp_path):
    own = own_environment | {"GEMINI_TIMEOUT": "100", "WORKER_CONCURRENCY": "16", "BASIC_DAILY_PROMPTS": "100"}
    client = make_app(redis_url=own["REDIS_URL"], basic_daily_prompts=100).test_client()
    greedy, other = make_user(), make_user()
    greedy.client = other.client = client
    for number in range(40):
        path = greedy.make_chatroom(str(number))
        assert greedy.post(f"{path}/message", json={"text": "[[sandbox: hang]]"}).status_code == 202
    log_file = tmp_path / "worker.log"
    with celery_process("worker", own, log_file):
        assert wait_until(lambda: " ready." in log_file.read_text(), seconds=60), log_file.read_text()
        path = other.make_chatroom()
        answer = other.post(f"{path}/message", json={"text": "Hello"}, headers={"Prefer": "wait=20"})
        assert answer.status_code == 200, answer.text
        assert gemini.stats()["in_flight"] == 8
        gemini.reset()
