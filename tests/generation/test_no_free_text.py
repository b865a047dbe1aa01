"""Whoever could read a part of an answer pays for it, whatever becomes of the reply. Each way is tried twenty times."""

from collections import defaultdict
from uuid import UUID

import pytest

from app.billing.tier import grant_pro
from app.core.clock import utc_now
from app.core.transactions import transaction
from app.generation import state
from app.generation.breaker import Breaker
from app.streaming import events
from tests.rooms import open_breaker

TIMES = 20
CUT = "[[sandbox: words=8 drop_after=3]] Tell me"  # three pieces, then the connection breaks


@pytest.fixture
def room(room):
    with room.app.app_context():
        grant_pro(UUID(room.person.id), reason="Twenty prompts a test", ends_at=None, now=utc_now())
    return room


def attempt(room, runner, reply_id):
    """Make one attempt now, even if it is not yet due."""
    room.sql("UPDATE messages SET not_before = NULL WHERE id = :id", id=reply_id)
    room.generate(runner, reply_id)


def published(room, reply_id):
    """Return what a client that followed from the beginning has read of the first attempt."""
    with room.app.app_context():
        _, entries = events.read(room.app.extensions["redis"], reply_id, events.FROM_THE_START, seconds=0.001)
    return "".join(entry.piece for entry in entries if entry.attempt == 1)


def fail_at_last(room, runner, gemini, reply_id):
    """Every attempt is cut."""
    for _ in range(3):
        attempt(room, runner, reply_id)


def refuse(room, runner, gemini, reply_id):
    """After the cut, Google refuses."""
    attempt(room, runner, reply_id)
    gemini.behave(status=400)
    attempt(room, runner, reply_id)


def wait_in_vain(room, runner, gemini, reply_id):
    """After the cut, the breaker stays open until the reply's time is over."""
    attempt(room, runner, reply_id)
    room.sql("UPDATE messages SET started_at = now() - interval '1 hour' WHERE id = :id", id=reply_id)
    of_all = open_breaker()
    runner.breakers = defaultdict(lambda: of_all)
    attempt(room, runner, reply_id)


def die(room, runner, gemini, reply_id):
    """The worker dies in the middle of its piece, and so does each one that comes after it."""
    attempt(room, runner, reply_id)
    room.sql("UPDATE messages SET not_before = NULL WHERE id = :id", id=reply_id)
    with room.app.app_context(), transaction():
        assert state.claim(reply_id, lease=runner.keeper.lease)
    room.let_leases_run_out()
    room.sql("UPDATE messages SET failures = 3 WHERE id = :id", id=reply_id)
    room.generate(runner, reply_id)


def cancel(room, runner, gemini, reply_id):
    """After the cut, its reader cancels."""
    attempt(room, runner, reply_id)
    assert room.person.post(f"{room.path}/messages/{reply_id}/cancel").status_code == 200


@pytest.mark.parametrize("way", [fail_at_last, refuse, wait_in_vain, die, cancel])
def test_a_part_that_was_read_is_paid_for(room, runner, gemini, way):
    for number in range(1, TIMES + 1):
        runner.breakers = defaultdict(lambda: Breaker("Gemini"))
        gemini.reset()
        reply_id = room.send(CUT, stream=True)
        way(room, runner, gemini, reply_id)
        assert room.read(reply_id).status in {"failed", "canceled"}
        assert published(room, reply_id)
        assert room.used() == number


def test_a_reply_that_nobody_could_read_is_refunded(room, runner, gemini):
    for _ in range(TIMES):
        runner.breakers = defaultdict(lambda: Breaker("Gemini"))
        gemini.reset()
        reply_id = room.send(CUT.replace("drop_after=3", "drop_after=0"), stream=True)
        refuse(room, runner, gemini, reply_id)
        assert room.read(reply_id).status == "failed"
        assert not published(room, reply_id)
        assert room.used() == 0
