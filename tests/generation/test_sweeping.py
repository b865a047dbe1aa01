"""The sweeper requeues the replies that nobody looks after, and no others."""

from datetime import timedelta

import pytest

from app.account.tasks import delete_ended
from app.core.broker import GENERATIONS
from app.core.clock import utc_now
from app.generation import queueing
from app.generation.worker import sweep_replies
from tests.rooms import REQUEUE_AFTER, Room, sweep


def waiting(room):
    return room.app.extensions["redis"].llen(GENERATIONS)


def let_workers_take_all(room):
    """Empty the queue, as if workers had taken every task and died."""
    room.app.extensions["redis"].flushdb()


def test_a_lost_task_is_queued_again_and_logged(room, caplog):
    reply_id = room.send("Hello")
    let_workers_take_all(room)
    caplog.clear()
    assert sweep(room, timedelta(seconds=1)) == []
    assert caplog.messages == []
    assert sweep(room) == [reply_id]
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("WARNING", "The sweeper queued 1 replies again")]
    assert waiting(room) == 1


def test_a_task_that_waits_behind_others_is_not_lost(room):
    room.send("Hello")
    assert sweep(room, timedelta(hours=1)) == []
    assert waiting(room) == 1


def test_a_task_that_was_lost_ahead_of_those_that_wait_is_queued_again(room):
    lost = room.send("Hello")
    let_workers_take_all(room)
    room.sql("UPDATE messages SET enqueued_at = now() - interval '1 minute' WHERE role = 'model'")
    other = Room(room.app, room.person, room.person.make_chatroom())
    other.send("Hello")
    assert sweep(room, timedelta(hours=1)) == [lost]


def test_a_dead_workers_reply_is_queued_again_whatever_else_waits(room):
    dead = room.send("Hello")
    let_workers_take_all(room)
    other = Room(room.app, room.person, room.person.make_chatroom())
    waiting_since = other.row(other.send("Hello")).enqueued_at
    room.sql("UPDATE messages SET status = 'generating', lease_expires_at = now() WHERE id = :id", id=dead)
    room.sql(
        "UPDATE messages SET enqueued_at = :at WHERE id = :id", at=waiting_since + timedelta(milliseconds=1), id=dead
    )
    assert sweep(room, timedelta(seconds=20)) == [dead]


def test_a_reply_whose_predecessor_has_just_ended_is_not_lost(room, runner):
    first, second = room.send("One"), room.send("Two")
    let_workers_take_all(room)
    room.sql("UPDATE messages SET enqueued_at = now() - interval '1 minute' WHERE role = 'model'")
    room.generate(runner, first)
    assert sweep(room, timedelta(seconds=1)) == []
    assert room.row(second).enqueued_at > utc_now() - timedelta(seconds=30)


def test_a_foreign_message_in_the_queue_does_not_stop_the_sweeps(room):
    reply_id = room.send("Hello")
    let_workers_take_all(room)
    room.app.extensions["redis"].rpush(GENERATIONS, "not a task")
    assert sweep(room) == [reply_id]


def test_the_next_sweep_looks_at_what_one_sweep_left_out(room, monkeypatch):
    others = [Room(room.app, room.person, room.person.make_chatroom()) for _ in range(4)]
    lost = {each.send("Hello") for each in others}
    let_workers_take_all(room)
    monkeypatch.setattr(queueing, "ROOMS_PER_SWEEP", 2)
    found = []
    for _ in range(3):
        found.append(sweep(room))
        room.app.extensions["redis"].delete(GENERATIONS)
    assert [len(each) for each in found] == [2, 2, 0]
    assert {reply_id for each in found for reply_id in each} == lost


def test_a_sweep_that_runs_twice_queues_once(room):
    room.send("Hello")
    let_workers_take_all(room)
    assert len(sweep(room) + sweep(room)) == 1


def test_a_dead_workers_reply_is_queued_again(room):
    reply_id = room.send("Hello")
    let_workers_take_all(room)
    room.sql("UPDATE messages SET status = 'generating', lease_expires_at = now() WHERE role = 'model'")
    assert sweep(room) == [reply_id]


def test_a_dead_workers_reply_is_queued_once_while_its_task_waits_behind_others(room):
    reply_id = room.send("Hello")
    room.sql("UPDATE messages SET status = 'generating', lease_expires_at = now() WHERE role = 'model'")
    assert sweep(room) == [reply_id]
    assert sweep(room, timedelta(minutes=1)) == []
    let_workers_take_all(room)
    assert sweep(room, timedelta(minutes=1)) == [reply_id]


def test_a_reply_that_is_held_is_left_alone(room):
    room.send("Hello")
    room.sql(
        "UPDATE messages SET status = 'generating', lease_expires_at = now() + interval '1 hour' WHERE role = 'model'"
    )
    assert sweep(room) == []


def test_a_reply_that_waits_its_turn_is_left_alone(room):
    first, _ = room.send("One"), room.send("Two")
    let_workers_take_all(room)
    assert sweep(room) == [first]


def test_a_retry_that_is_not_yet_due_is_left_alone(room, runner):
    reply_id = room.send("[[sandbox: status=503 retry_after=20]]")
    room.generate(runner, reply_id)
    let_workers_take_all(room)
    assert sweep(room) == []
    assert sweep(room, timedelta(seconds=30)) == [reply_id]


def test_a_sweep_without_redis_logs_once_that_it_could_not_queue(app, room, make_app, capsys):
    for _ in range(3):
        room.send("Hello")
        room = Room(room.app, room.person, room.person.make_chatroom())
    with make_app(redis_url="redis://127.0.0.1:1").app_context():
        assert len(sweep_replies(now=utc_now() + timedelta(seconds=9), requeue_after=REQUEUE_AFTER)) == 3
    app.extensions["celery"].set_default()
    [told] = [line for line in capsys.readouterr().err.splitlines() if "not queued" in line]
    assert told.startswith("WARNING")
    assert "3 tasks not queued: Redis is unavailable (" in told


@pytest.mark.parametrize("status", ["completed", "failed", "canceled"])
def test_a_reply_that_has_ended_is_left_alone(room, status):
    room.send("Hello")
    room.sql(
        "UPDATE messages SET status = :status, text = 'Text',"
        " error_code = CASE WHEN :status = 'failed' THEN 'empty_reply' END WHERE role = 'model'",
        status=status,
    )
    assert sweep(room) == []


def test_old_idempotency_keys_are_deleted(room):
    room.person.post(f"{room.path}/message", json={"text": "Hi"}, headers={"Idempotency-Key": "k"})
    with room.app.app_context():
        assert delete_ended(now=utc_now() + timedelta(hours=23))["idempotency keys"] == 0
        assert delete_ended(now=utc_now() + timedelta(hours=24))["idempotency keys"] == 1


def test_one_sweep_deletes_more_than_a_batch_of_old_idempotency_keys(room, monkeypatch):
    monkeypatch.setattr("app.account.tasks.ENDED_BATCH", 2)
    room.sql(
        "INSERT INTO idempotency_keys (user_id, key, fingerprint, chatroom_id, answered_with_reply, created_at)"
        " SELECT :id, 'key-' || number, '', gen_random_uuid(), false, now() FROM generate_series(1, 5) AS number",
        id=room.person.id,
    )
    with room.app.app_context():
        assert delete_ended(now=utc_now() + timedelta(hours=24))["idempotency keys"] == 5
